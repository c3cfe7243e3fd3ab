"""How much memory: read from people, told to them, measured in this process."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.core.errors import MedfuseError

if TYPE_CHECKING:
    import torch

_UNITS = {f"{p}iB": 1024**n for n, p in enumerate("KMGT", 1)}
_UNITS |= {f"{p}B": 1000**n for n, p in enumerate(" KMGT")}
_BY_NAME = {name.strip().lower(): size for name, size in _UNITS.items()}


def parse_bytes(text: str) -> int:
    """Bytes of `4GiB`, `500 MB`, `1024 B`. Raises MedfuseError, also where the unit is missing."""
    match = re.fullmatch(r"\s*([0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})\s*([a-z]*)\s*", text.lower())
    size = _BY_NAME.get(match[2]) if match else None
    if match is None or size is None or float(match[1]) * size < 1:
        said = repr(text if len(text) <= 40 else f"{text[:39]}…")
        raise MedfuseError(f"{said} is no amount of memory; write a number and a unit, such as 4GiB")
    return int(float(match[1]) * size)


def bytes_text(size: float) -> str:
    """`1.2 GiB`, `340 MiB`."""
    for power, unit in ((50, "PiB"), (40, "TiB")):
        if size >= 2**power:
            return f"{size / 2**power:,.1f} {unit}"
    if size < 2**19:
        return f"{size / 2**10:.0f} KiB"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def total_memory(device: torch.device) -> int:
    """Bytes that a process can have: of a GPU what is free, else what its control group allows."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    most = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for folder, limit, _ in _GROUPS:
        with suppress(OSError, ValueError):
            most.append(int(Path("/sys/fs/cgroup", folder, limit).read_text()))
    return min(most)


_GROUPS = (
    (".", "memory.max", "memory.current"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def free_memory() -> int:
    """About how many bytes this process can still take: in the machine, its control group, its own limit.

    Without Linux's /proc, half of what the machine has.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    left = [_kib("/proc/meminfo", "MemAvailable") or machine // 2]
    for folder, limit, used in _GROUPS:
        with suppress(OSError, ValueError):
            group = Path("/sys/fs/cgroup", folder)
            files = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
            held = int((group / used).read_text()) - (int(files[1]) if files else 0)  # files can be dropped
            left.append(int((group / limit).read_text()) - held)
    with suppress(ImportError):
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            left.append(most - _status("VmSize"))
    return max(0, min(left))


LACKS = "needs more memory than is free; close other programs, or use a machine with more"


def lacks_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no more; torch has errors of its own for that."""
    kinds = (kind.__name__ for kind in type(error).__mro__)
    return bool({"MemoryError", "OutOfMemoryError"} & {*kinds}) or "can't allocate memory" in str(error)


def trim_heap() -> None:
    """Give back to the system what the C library holds free; those without glibc's call do so themselves."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def memory_growth(device: torch.device | None = None) -> Iterator[Callable[[], int]]:
    """Hands out a function: by how many bytes memory was at most above what it was at the beginning.

    On a GPU as torch counts it; else resident memory of this process, which without Linux's /proc is 0.
    """
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        allocated = torch.cuda.memory_allocated(device)
        yield lambda: int(torch.cuda.max_memory_allocated(device)) - allocated
        return
    trim_heap()  # what is free already would hide what is taken
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident
    before = _status("VmRSS")
    yield lambda: max(0, _status("VmHWM") - before)


def peak_memory() -> int:
    """The most bytes of main memory that this process has had at once, as far as the system tells."""
    return _status("VmHWM")


def _status(key: str) -> int:
    return _kib("/proc/self/status", key)


def _kib(file: str, key: str) -> int:
    """Bytes of a line `key:  123 kB`; 0 where there is none."""
    try:
        text = Path(file).read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
