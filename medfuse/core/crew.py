"""What a worker is told by whoever starts it, and what is said of one that has ended."""

from __future__ import annotations

import os

from medfuse.core.errors import MedfuseError

WORKER, BESIDE = "MEDFUSE_WORKER", "MEDFUSE_BESIDE"
"""In a worker's environment: its name, and the process without which it is not to go on."""


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


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
