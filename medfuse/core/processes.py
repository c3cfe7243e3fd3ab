"""Several processes of one command, on one machine: started together, ended together."""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medfuse.core.errors import MedfuseError

_COMMAND = (sys.executable, "-m", "medfuse")
_MOST = 16  # processes on a machine of fewer cores
_WAIT = 10.0  # seconds for a process to end by itself once it is asked to


def processes() -> int:
    """How many train together, as `run_together` or torchrun has set it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def processes_here() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def run_together(arguments: Sequence[str], *, devices: int, nodes: int = 1) -> None:
    """Run `medfuse ARGUMENTS` in `devices` processes here, of `nodes` machines' together.

    They find each other by the variables that torchrun sets too. Several machines need NODE_RANK, MASTER_ADDR
    and MASTER_PORT. Where one process fails, the others are ended. Raises MedfuseError with its reason.
    """
    if devices > (most := max(_MOST, os.cpu_count() or 1)):
        raise MedfuseError(
            f"--devices {devices}: this machine has {os.cpu_count()} cores; at most {most} fit"
        )
    meeting = _meeting_point(nodes)
    node = int(meeting["NODE_RANK"])
    threads = str(max(1, (os.cpu_count() or 1) // devices))
    members: list[_Member] = []
    try:
        for local in range(devices):
            place = {
                "RANK": node * devices + local,
                "LOCAL_RANK": local,
                "WORLD_SIZE": nodes * devices,
                "LOCAL_WORLD_SIZE": devices,
                "GROUP_RANK": node,
            }
            variables = {"OMP_NUM_THREADS": threads, **os.environ, **meeting}
            members.append(_start(arguments, variables | {k: str(v) for k, v in place.items()}, local))
        _watch(members)
    finally:
        for member in members:
            member.end()


@dataclass(frozen=True)
class _Member:
    """A process; the first speaks for itself, what others say is kept for the case that they fail."""

    number: int
    process: subprocess.Popen[bytes]
    said: Path | None

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(_WAIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.said:
            with suppress(OSError):
                self.said.unlink()

    def reason(self) -> str:
        """Why it failed; nothing where it has said so itself."""
        code = self.process.returncode
        if code < 0:
            return f"process {self.number} was killed by signal {-code}; most often memory ran out"
        if self.said is None:
            return ""
        said = self.said.read_text(encoding="utf-8", errors="replace").strip()
        return f"process {self.number}: {said or f'ended with code {code}'}"


def _start(arguments: Sequence[str], variables: Mapping[str, str], local: int) -> _Member:
    command = [*_COMMAND, *arguments]
    if local == 0:
        return _Member(local, subprocess.Popen(command, env=variables), None)
    handle, name = tempfile.mkstemp(prefix="medfuse-process-")
    with open(handle, "wb") as file:
        process = subprocess.Popen(command, env=variables, stdout=file, stderr=file)
    return _Member(local, process, Path(name))


def _watch(members: Sequence[_Member]) -> None:
    failed = None
    while failed is None:
        codes = [member.process.poll() for member in members]
        failed = next((member for member, code in zip(members, codes) if code), None)
        if None not in codes:
            break
        time.sleep(0.1)
    if failed is None:
        return
    if reason := failed.reason():
        raise MedfuseError(reason)
    raise SystemExit(failed.process.returncode)


def _meeting_point(nodes: int) -> dict[str, str]:
    wanted = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
    if nodes == 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return dict(zip(wanted, ("0", "127.0.0.1", str(free.getsockname()[1]))))
    if missing := [name for name in wanted if name not in os.environ]:
        raise MedfuseError(
            f"--nodes {nodes}: {', '.join(missing)} must be set on every machine, with one MASTER_ADDR and "
            "MASTER_PORT for all; or start it with torchrun, which sets them"
        )
    found = {name: os.environ[name] for name in wanted}
    for name, most in (("NODE_RANK", nodes - 1), ("MASTER_PORT", 65_535)):
        if not re.fullmatch(r"[0-9]{1,9}", found[name]) or int(found[name]) > most:
            raise MedfuseError(f"{name}={found[name][:40]!r}: set it to a whole number from 0 to {most}")
    return found
