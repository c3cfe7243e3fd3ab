"""Weights & Biases: runs in a folder of this machine, and on its server where that is asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medfuse.api import TrackedRun, Tracker, Tracking
from medfuse.core.offline import import_offline

log = logging.getLogger(__name__)


class Wandb(Tracker):
    """Tells Weights & Biases of a run: configuration, numbers of every step, and the report as an artifact.

    Runs are kept in the folder `wandb` beside the run folders, and `wandb sync` sends them. With
    `mode: online` they are sent as they go, where this machine is logged in.

        track: {use: wandb, project: livers}
    """

    project: str = Field("medfuse", min_length=1, description="which project runs belong to")
    entity: str = Field("", description="the user or team of the project; as wandb has it if not given")
    mode: Literal["offline", "online"] = Field("offline", description="whether anything is sent")

    def begin(self, run: TrackedRun) -> Tracking:
        wandb = import_offline("wandb")
        mode = self.mode
        if mode == "online" and not wandb.login(prompt=False):
            log.info(
                "track: wandb: nobody is logged in here, so runs stay on this machine; `wandb login` first"
            )
            mode = "offline"
        folder = run.shared.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        begun = wandb.init(
            project=self.project,
            entity=self.entity or None,
            name=run.name,
            id=run.key,
            resume="allow" if mode == "online" else None,
            mode=mode,
            dir=str(folder),
            config=dict(run.parameters),
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True
            ),
        )
        return _Told(wandb, begun, run.key)


class _Told:
    def __init__(self, wandb: Any, run: Any, key: str) -> None:
        self._wandb, self._run, self._key = wandb, run, key

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def finish(self, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        self._run.summary.update({f"held out/{name}": value for name, value in summary.items()})
        if files:
            artifact = self._wandb.Artifact(f"report-{self._key}", type="report")
            for path in files:
                artifact.add_file(str(path))
            self._run.log_artifact(artifact)
        self._run.finish()

    def stop(self) -> None:
        self._run.finish(exit_code=1)
