"""Workers on this machine: processes that run one command of medfuse, each with its share of the cores."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from medfuse.core.errors import MedfuseError

_WAIT_S = 10.0  # for a worker to end by itself once it is asked to


class LocalCrew:
    """`workers` processes of `medfuse ARGUMENTS`, each with one of `gpus` in turn, where there are any."""

    def __init__(self, arguments: Sequence[str], workers: int, gpus: Sequence[str] = ()) -> None:
        self._command = [sys.executable, "-m", "medfuse", *arguments]
        self._threads = str(max(1, cores() // workers))
        self._gpus, self._started = gpus, 0
        self._members: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
        for _ in range(workers):
            self.add()

    def add(self) -> None:
        said = tempfile.TemporaryFile(prefix="medfuse-worker-")  # noqa: SIM115  # closed with its process
        variables = {**os.environ, "OMP_NUM_THREADS": self._threads}
        if self._gpus:
            variables["CUDA_VISIBLE_DEVICES"] = self._gpus[self._started % len(self._gpus)]
        self._started += 1
        process = subprocess.Popen(
            self._command, env=variables, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
        self._members.append((process, said))

    def ended(self) -> Sequence[tuple[int, str]]:
        """Process and reason of those that have ended since the last call, but those that ended well.

        Raises MedfuseError where one ended by a mistake of the user's, which the next would make, too.
        """
        found = []
        for member in list(self._members):
            process, said = member
            code = process.poll()
            if code is None:
                continue
            self._members.remove(member)
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            said.close()
            if code == 2:
                raise MedfuseError(lines[-1] if lines else "a worker ended with exit code 2")
            if code:
                found.append((process.pid, _reason(code, lines)))
        return found

    def end(self) -> None:
        for process, _ in self._members:
            with suppress(OSError):
                process.terminate()
        for process, said in self._members:
            try:
                process.wait(_WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            said.close()
        self._members.clear()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reason(code: int, lines: Sequence[str]) -> str:
    if code < 0:
        return f"its worker was killed by signal {-code}; most often memory ran out"
    return f"its worker ended with code {code}: {lines[-1][:300] if lines else 'it said nothing'}"
