"""Workers as an array of Slurm jobs, submitted by submitit, which queues those again that were preempted."""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medfuse.api import Command, Crew, Engine
from medfuse.core.crew import Child
from medfuse.core.errors import MedfuseError, lacks, reason
from medfuse.core.offline import import_offline

_LOOK_S = 5.0
"""Seconds between two looks at the queue."""
_PEACE_S = 5.0  # for workers to end by themselves
_PATIENCE_S = 30.0  # for jobs to be gone, and for what they wrote to be seen here
_TIMEOUTS = 10_000  # how often a job that ran out of time is queued again


class Slurm(Engine):
    """An array of Slurm jobs, one for each worker.

    What is preempted or runs out of time is queued again, and goes on with what is left. The command stays
    and follows; where it ends early, the same command carries on. All nodes see the same files.

        {use: slurm, partition: gpu, cores: 8, gpus: 1, minutes: 120, more: {account: radiology}}
    """

    partition: str = Field("", description="of the jobs; the cluster's own choice if not given")
    cores: int = Field(4, ge=1, le=1024, description="of each worker")
    gpus: int = Field(0, ge=0, le=64, description="of each worker")
    memory_gb: float | None = Field(None, gt=0, le=1e6, description="of each worker")
    minutes: int = Field(
        240, ge=1, le=100_000, description="a job's time limit, after which it is queued again"
    )
    more: dict[str, str | int | float | bool | list[str]] = Field(
        {}, description="what else sbatch is told, such as {account: radiology, qos: low}"
    )
    executor: Literal["slurm", "local"] = Field(
        "slurm", description="local: processes on this machine in place of jobs, to try a command"
    )

    def ready(self) -> None:
        self._executor(Command((), Path(tempfile.gettempdir())))  # which makes nothing yet

    def start(self, command: Command, workers: int) -> Crew:
        executor = self._executor(command)
        crew = SlurmCrew(executor, command, self.cores, self.executor == "slurm")
        crew.add_all(workers)
        return crew

    def _executor(self, command: Command) -> Any:
        try:
            submitit = import_offline("submitit")
        except ImportError as error:
            raise MedfuseError(f"--engine slurm: {lacks(error) or reason(error)}") from error
        folder = command.folder / "slurm"
        kinds = {"slurm": submitit.SlurmExecutor, "local": submitit.LocalExecutor}
        try:
            made = kinds[self.executor](folder, max_num_timeout=_TIMEOUTS)
            made.update_parameters(**self._parameters(command))
        except RuntimeError as error:
            raise MedfuseError(
                "--engine slurm: there is no srun here; run this on a machine of a Slurm cluster"
            ) from error
        except (ValueError, TypeError) as error:
            said = " ".join(str(error).split("\n")[:1])
            raise MedfuseError(f"--engine slurm: more: {said}; use the names of sbatch's options") from error
        return made

    def _parameters(self, command: Command) -> dict[str, Any]:
        if self.executor == "local":
            return {"timeout_min": self.minutes}
        found: dict[str, Any] = {
            "job_name": job_name(command),
            "time": self.minutes,
            "cpus_per_task": self.cores,
            "array_parallelism": 10_000,
            "stderr_to_stdout": True,
        }
        if self.partition:
            found["partition"] = self.partition
        if self.gpus:
            found["gpus_per_node"] = self.gpus
        if self.memory_gb:
            found["mem"] = f"{round(self.memory_gb * 1024)}MB"
        return found | self.more


def job_name(command: Command) -> str:
    """The same for all jobs that agree in one folder, whoever submits them."""
    return f"medfuse-{hashlib.sha256(os.fsencode(command.folder)).hexdigest()[:12]}"


class Member:
    """What a job does: it has one worker as its child, and is queued again with it, under the same name."""

    def __init__(self, command: Command, name: str, threads: int) -> None:
        self._command, self._name, self._threads = command, name, threads
        self._child: Child | None = None

    def __call__(self) -> tuple[int, str]:
        """The exit code of the worker, and what it said."""
        self._child = Child()
        told = self._command.variables(self._name, cores=self._threads, ends_with_this=True)
        return self._child.run(self._command.words, told)

    def checkpoint(self) -> Any:
        """Slurm is about to end this job, and will queue it again."""
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            self._child.stop()
        return DelayedSubmission(Member(self._command, self._name, self._threads))


class SlurmCrew:
    """The jobs of one command."""

    def __init__(self, executor: Any, command: Command, threads: int, queued: bool) -> None:
        self._executor, self._command, self._threads = executor, command, threads
        self._queued = queued
        self._members: dict[str, tuple[str, Any]] = {}
        self._gone: dict[str, float] = {}
        self._looked = time.monotonic()
        if queued:  # those of an earlier call that wait to begin
            _asked("scancel", "--me", "--state=PENDING", f"--name={job_name(command)}")

    def __len__(self) -> int:
        return len(self._members)

    def add(self) -> None:
        self.add_all(1)

    def add_all(self, workers: int) -> None:
        names = [f"slurm-{secrets.token_hex(6)}" for _ in range(workers)]
        try:
            with self._executor.batch():
                jobs = [self._executor.submit(Member(self._command, name, self._threads)) for name in names]
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            raise MedfuseError(f"--engine slurm: {_last_line(error)}") from error
        self._members |= {job.job_id: (name, job) for name, job in zip(names, jobs)}

    def ended(self) -> Sequence[tuple[str, str]]:
        found = []
        lost = self._lost()
        for number, (name, job) in [*self._members.items()]:
            finished = job.paths.result_pickle.exists()
            if not finished and number not in lost:
                continue
            del self._members[number]
            if why := self._why(job) if finished else f"its job {number} is gone from the queue":
                found.append((name, why))
        return found

    def _why(self, job: Any) -> str:
        """Why a job that has ended did not do its work; "" where it did."""
        outcome, said = job._get_outcome_and_result()  # what it left, without asking the queue
        if outcome == "success":
            return self._command.ended(*said)
        return f"its job {job.job_id} ended: {_last_line(said)}"

    def _lost(self) -> set[str]:
        """Jobs that are not there any more, for a while, and have left no result."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S or not self._members:
            return set()
        self._looked = now
        if (there := self._there()) is None:
            return set()
        self._gone = {number: self._gone.get(number, now) for number in self._members if number not in there}
        return {number for number, since in self._gone.items() if now - since > _LOOK_S}

    def _there(self) -> set[str] | None:
        """Jobs that wait, run or end; None where the queue does not answer."""
        if not self._queued:
            return {number for number, (_, job) in self._members.items() if not job.done()}
        said = _asked(
            "squeue", "--me", "--noheader", "--array", "--format=%i", f"--name={job_name(self._command)}"
        )
        return None if said is None else set(said.split())

    def end(self) -> None:
        jobs = {number: job for number, (_, job) in self._members.items()}
        if self._queued and jobs:
            _asked("scancel", "--state=PENDING", *jobs)
        self._wait(_PEACE_S)
        for number in self._there() or ():
            if self._queued:
                _asked("scancel", number)
            elif number in jobs:
                with suppress(OSError):
                    jobs[number].cancel()
        self._wait(_PATIENCE_S)
        self._members.clear()

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._there():
            time.sleep(0.2)


def _asked(*words: str) -> str | None:
    """What a command of Slurm says; None where it does not answer."""
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(words, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
        return said.stdout
    return None


def _last_line(error: object) -> str:
    lines: Iterable[str] = (line.strip() for line in str(error).splitlines())
    return ([line for line in lines if line] or ["no reason was told"])[-1][:300]
