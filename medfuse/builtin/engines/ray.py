"""Workers on a Ray cluster: an actor each, which Ray starts again elsewhere where its node goes away."""

from __future__ import annotations

import logging
import secrets
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic import Field

from medfuse.api import Command, Crew, Engine
from medfuse.core.crew import Child, cores
from medfuse.core.errors import MedfuseError, lacks, reason
from medfuse.core.offline import import_offline

_PATIENCE_S = 10.0  # for an address to answer, and for workers to end by themselves
_RETURN_S = 3.0  # for actors to say what their workers, which have ended, said


class Ray(Engine):
    """Actors of a Ray cluster, one for each GPU or for so many cores.

    A worker whose node is lost begins again on another, and one that finds no room waits for it. All nodes
    see the same files under the same paths, and have the same version of medfuse. Without an address a
    cluster on this machine is started for the call.

        {use: ray, address: "ray://head:10001", cores: 4}
    """

    address: str = Field(
        "", description="ray://HOST:10001, HOST:6379 or auto; started for the call if not given"
    )
    cores: int | None = Field(None, ge=1, le=1024, description="of each worker; an equal part if not given")
    gpus: float | None = Field(
        None, ge=0, le=64, description="of each worker; 1 if not given, where the cluster has any"
    )
    resources: dict[str, float] = Field(
        {}, description="what else a worker's node must have, such as {spot: 1}"
    )
    scales: bool = Field(False, description="the cluster adds nodes when they are asked for")

    def ready(self) -> None:
        _imported()
        if self.address:
            _knock(self.address, _silent(self.address))

    def start(self, command: Command, workers: int) -> Crew:
        ray = _imported()
        folder = self._connect(ray, workers)
        try:
            crew = RayCrew(ray, command, self._part(ray, command, workers), folder)
            for _ in range(workers):
                crew.add()
        except BaseException:
            _leave(ray, folder)
            raise
        return crew

    def _connect(self, ray: Any, workers: int) -> str | None:
        """Be a driver of the cluster; the folder of one that is started for this call, and "" of another's.

        None where this process is one already.
        """
        if ray.is_initialized():
            return None
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if not self.address:
            folder = tempfile.mkdtemp(prefix="ray-")
            room = max(cores(), workers * (self.cores or 1))
            ray.init(address="local", num_cpus=room, include_dashboard=False, _temp_dir=folder, **quiet)
            return folder
        where = _silent(self.address)
        _knock(self.address, where)
        try:
            ray.init(address=self.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise MedfuseError(
                f"{where}: {reason(error)}; `ray status` there says whether one runs"
            ) from error
        return ""

    def _part(self, ray: Any, command: Command, workers: int) -> dict[str, Any]:
        """What each worker has. Raises MedfuseError where no node has that much."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        total, most = (fold(int(node.get("CPU", 0)) for node in nodes) if nodes else 0 for fold in (sum, max))
        each = self.cores or max(1, min(most, total // workers))
        gpus = self.gpus
        if gpus is None:
            gpus = float(command.device in ("auto", "cuda") and any(node.get("GPU") for node in nodes))
        wanted = {"CPU": float(each), "GPU": gpus, **self.resources}
        if not self.scales and not any(_has(node, wanted) for node in nodes):
            asked = ", ".join(f"{name}: {value:g}" for name, value in wanted.items() if value)
            raise MedfuseError(
                f"--engine ray: no node of the cluster has {asked}; ask for less with --engine-option, or "
                "say --engine-option scales=true where nodes come when they are asked for"
            )
        return {"num_cpus": each, "num_gpus": gpus, "resources": self.resources or None}


def _imported() -> Any:
    try:
        return import_offline("ray")
    except ImportError as error:
        raise MedfuseError(f"--engine ray: {lacks(error) or reason(error)}") from error


def _silent(address: str) -> str:
    return f"--engine ray: no cluster answers at {address}"


def _has(node: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return all(node.get(name, 0.0) >= value for name, value in wanted.items())


def _knock(address: str, where: str) -> None:
    """Raises MedfuseError where nothing listens at an address, for which Ray itself waits long."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in ("auto", "local"):
        return
    what = "write it as ray://HOST:10001, HOST:6379 or auto"
    if not host or not port.isdecimal():
        raise MedfuseError(f"--engine ray: address {address!r}: {what}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise MedfuseError(
            f"{where}: {reason(error)}; start one there with `ray start --head`, or {what}"
        ) from error


def _leave(ray: Any, folder: str | None) -> None:
    if folder is not None:
        ray.shutdown()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


class Member:
    """An actor: it has one worker as its child, and is started again with it, under the same name."""

    def __init__(self, command: Command, name: str, threads: int) -> None:
        self._command, self._name, self._threads = command, name, threads
        self._child = Child()

    def run(self) -> tuple[int, str]:
        """The exit code of the worker, and what it said."""
        told = self._command.variables(self._name, cores=self._threads, ends_with_this=True)
        return self._child.run(self._command.words, told)

    def stop(self) -> None:
        self._child.stop(_PATIENCE_S)


class RayCrew:
    """The actors of one command. folder: see `Ray._connect`."""

    def __init__(self, ray: Any, command: Command, part: Mapping[str, Any], folder: str | None) -> None:
        self._ray, self._command, self._part, self._folder = ray, command, part, folder
        self._members: dict[Any, tuple[str, Any]] = {}
        self._kind = ray.remote(Member)

    def __len__(self) -> int:
        return len(self._members)

    def add(self) -> None:
        name = f"ray-{secrets.token_hex(6)}"
        again = {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": 2}
        actor = self._kind.options(**self._part, **again).remote(self._command, name, self._part["num_cpus"])
        self._members[actor.run.remote()] = (name, actor)

    def ended(self) -> Sequence[tuple[str, str]]:
        if not self._members:
            return []
        ready, _ = self._ray.wait([*self._members], num_returns=len(self._members), timeout=0)
        found = []
        for result in ready:
            name, actor = self._members.pop(result)
            try:
                why = self._command.ended(*self._ray.get(result))
            except self._ray.exceptions.RayError as error:
                why = f"its worker's actor was lost: {reason(error)}"
            self._kill(actor)
            if why:
                found.append((name, why))
        return found

    def end(self) -> None:
        runs = [*self._members]
        members, self._members = [actor for _, actor in self._members.values()], {}
        with suppress(self._ray.exceptions.RayError):
            asked = [actor.stop.remote() for actor in members]
            if asked:
                self._ray.wait(asked, num_returns=len(asked), timeout=_PATIENCE_S + 1)
                self._ray.wait(runs, num_returns=len(runs), timeout=_RETURN_S)  # else Ray calls them failed
        for actor in members:
            self._kill(actor)
        _leave(self._ray, self._folder)

    def _kill(self, actor: Any) -> None:
        with suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(actor)
