"""An Indexed Job of Kubernetes, printed for `kubectl apply`: each of its pods does one shard."""

from __future__ import annotations

import logging
import os
import shlex
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from medfuse.api import Command, Crew, Engine
from medfuse.core.errors import MedfuseError
from medfuse.core.text import listed

log = logging.getLogger(__name__)

_INDEX = "$(JOB_COMPLETION_INDEX)"
"""Which Kubernetes puts in place of it in a pod's command; counted from 0, as shards are."""
_PRINT = (
    "--engine k8s: starts nothing itself; add --print to `medfuse infer`, which alone has it, and "
    "`kubectl apply -f` what that prints"
)
_MOST_PODS = 100_000  # of an Indexed Job with limits for each index


class Kubernetes(Engine):
    """An Indexed Job, each pod of which does one shard; printed, and started by kubectl.

    A pod that is lost begins again with its shard. Scans, weights and output lie in a volume that all pods
    have, under the paths that the command names.

        {use: k8s, image: "registry.example/medfuse:1", claim: scans, mount: /data, gpus: 1}
    """

    image: str = Field(
        "medfuse:latest", min_length=1, description="that has medfuse, such as its Dockerfile's"
    )
    name: str = Field("medfuse", pattern=r"^[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?$", description="of the Job")
    namespace: str = Field("", description="of the Job; kubectl's own if not given")
    claim: str = Field(
        "scans", min_length=1, description="PersistentVolumeClaim with scans, weights and output"
    )
    mount: str = Field("/data", pattern=r"^/", description="where pods have it")
    cores: int = Field(4, ge=1, le=1024, description="of each pod")
    memory_gb: float = Field(8, gt=0, le=1e5, description="of each pod")
    gpus: int = Field(0, ge=0, le=64, description="of each pod (nvidia.com/gpu)")
    at_once: int | None = Field(None, ge=1, le=_MOST_PODS, description="pods at a time; all if not given")
    retries: int = Field(6, ge=0, le=1000, description="how often a shard begins again")

    def ready(self) -> None:
        raise MedfuseError(_PRINT)

    def start(self, command: Command, workers: int) -> Crew:
        raise MedfuseError(_PRINT)

    def printed(self, command: Command, workers: int) -> str:
        if workers > _MOST_PODS:
            raise MedfuseError(f"--engine k8s: a Job has {_MOST_PODS:,} pods at most, and not {workers:,}")
        if unseen := [str(place) for place in command.places if not _is_below(place, self.mount)]:
            log.warning(
                "--engine k8s: %s: not below %s, where pods have the volume; name it as pods see it, or give "
                "--engine-option mount=…, unless it is in their image",
                listed(unseen),
                self.mount,
            )
        container = {
            "name": "medfuse",
            "image": self.image,
            "command": ["medfuse"],
            "args": [*map(_literal, command.arguments), "--shard", f"{_INDEX}/{workers}"],
            "env": [{"name": "OMP_NUM_THREADS", "value": str(self.cores)}],
            "resources": {"requests": self._resources(), "limits": self._resources()},
            "volumeMounts": [{"name": "data", "mountPath": self.mount}],
        }
        pod = {
            "restartPolicy": "Never",
            "containers": [container],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": self.claim}}],
        }
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": self.name, **({"namespace": self.namespace} if self.namespace else {})},
            "spec": {
                "completionMode": "Indexed",
                "completions": workers,
                "parallelism": min(workers, self.at_once or workers),
                "backoffLimitPerIndex": self.retries,
                "podFailurePolicy": {"rules": _RULES},
                "template": {"spec": pod},
            },
        }
        what = " ".join(shlex.join(["medfuse", *command.arguments]).split())
        about = f"# {what}\n# in {workers} shards; start it with `kubectl apply -f FILE`\n"
        return about + yaml.safe_dump(job, sort_keys=False, allow_unicode=True, width=10_000)

    def _resources(self) -> dict[str, Any]:
        found: dict[str, Any] = {"cpu": str(self.cores), "memory": f"{round(self.memory_gb * 1024)}Mi"}
        return found | ({"nvidia.com/gpu": str(self.gpus)} if self.gpus else {})


_RULES = [
    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    {
        "action": "FailIndex",
        "onExitCodes": {"containerName": "medfuse", "operator": "In", "values": [2]},
    },
]
"""A pod whose node goes away begins again, uncounted; what a user must put right is not tried again."""


def _is_below(place: Path, mount: str) -> bool:
    """Whether a path is in the volume, as a pod sees it."""
    return os.path.normpath(place).startswith(os.path.join(os.path.normpath(mount), "")) or (
        os.path.normpath(place) == os.path.normpath(mount)
    )


def _literal(word: str) -> str:
    """A word in which Kubernetes puts nothing in place of anything; it takes `$$` for a dollar."""
    return word.replace("$", "$$")
