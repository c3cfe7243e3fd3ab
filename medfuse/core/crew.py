"""What a worker is told by whoever starts it, and what is said of one that has ended."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from medfuse.core.errors import MedfuseError

WORKER, BESIDE = "MEDFUSE_WORKER", "MEDFUSE_BESIDE"
"""In a worker's environment: its name, and the process without which it is not to go on."""


_MOST_BYTES, _POLL_S = 10_000, 0.1  # of what a worker said, and between two looks at it


def name_of_worker() -> str:
    """By which whoever started this process knows it; "" where nobody has."""
    return os.environ.get(WORKER, "")


def is_wanted() -> bool:
    """Whether the process that this one is not to outlive is still there, if there is such a one."""
    beside = os.environ.get(BESIDE, "")
    return not beside.isdecimal() or os.getppid() == int(beside)


def ended_by(code: int, said: str) -> str:
    """Why a worker that ended with `code` did not do its work; "" where it did. Raises MedfuseError for 2."""
    lines = said.strip().splitlines()
    last = lines[-1][:300] if lines else ""
    if code == 2:
        raise MedfuseError(last or "a worker ended with exit code 2")
    if code < 0:
        return f"its worker was killed by signal {-code}; most often memory ran out"
    return f"its worker ended with code {code}: {last or 'it said nothing'}" if code else ""


def share_of_cores() -> int:
    """Cores that this process is to use: of a worker, what whoever started it has given it."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if name_of_worker() and given.isdecimal() else os.cpu_count() or 1


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/nvmap")
"""What the drivers of graphics cards leave on Linux: NVIDIA's, AMD's, that of Windows, of small boards."""


def may_have_cards() -> bool:
    """Whether this machine may have a graphics card that computes; where it is False, torch sees none."""
    return sys.platform != "linux" or any(map(os.path.exists, _DRIVERS))


class Child:
    """A worker as the child of this process, for engines that have a process of their own beside each.

    `stop` may be called by a handler of signals: nothing here waits for what `run` holds.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def run(self, words: Sequence[str], variables: Mapping[str, str]) -> tuple[int, str]:
        """Its exit code, and the last of what it said."""
        with tempfile.TemporaryFile(prefix="medfuse-worker-") as said:
            self._process = subprocess.Popen(
                words, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
            if self._stopped:  # meanwhile
                self._process.kill()
            while (code := self._process.poll()) is None:
                time.sleep(_POLL_S)
            said.seek(0)
            return code, said.read()[-_MOST_BYTES:].decode(errors="replace")

    def stop(self, wait_s: float = 10.0) -> None:
        """It ends, by force if it must."""
        self._stopped = True
        if self._process is None:
            return
        until = time.monotonic() + wait_s
        with suppress(OSError):
            self._process.terminate()
            while self._process.poll() is None and time.monotonic() < until:
                time.sleep(_POLL_S)
            self._process.kill()
