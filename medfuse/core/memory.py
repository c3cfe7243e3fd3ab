"""How much memory something takes at its peak: on a GPU as torch counts it, on a CPU as the system does."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.core.errors import MedfuseError

if TYPE_CHECKING:
    import torch

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "kB": 10**3, "MB": 10**6, "GB": 10**9}

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def parse_size(text: str) -> int:
    """Bytes of `8GiB`, `800 MB` or `1.5GiB`. Raises MedfuseError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    units = {name.lower(): size for name, size in UNITS.items()}
    if match is None or match[2].lower() not in units or not float(match[1]):
        raise MedfuseError(f"{text!r} is no amount of memory; write a number and a unit, such as 8GiB")
    return int(float(match[1]) * units[match[2].lower()])


def size_text(size: float) -> str:
    """`3.2 GiB`, or `210 MiB` below one."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def total_memory(device: torch.device) -> int:
    """Bytes that the device has."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class PeakMemory:
    """Bytes above what is taken now, at the highest since this was made."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
            return
        with suppress(OSError, AttributeError):  # not glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        with suppress(OSError):  # then the peak of the whole process counts
            _RESET.write_text("5")
        self._before = _status("VmRSS") or _peak()

    def grown(self) -> int:
        import torch

        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device)) - self._before
        return _peak() - self._before


def _peak() -> int:
    """Bytes that this process had resident at most."""
    if found := _status("VmHWM"):
        return found
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _status(what: str) -> int:
    """A line of Linux' report on this process, in bytes; 0 elsewhere."""
    if not _STATUS.exists():
        return 0
    line = next((x for x in _STATUS.read_text().splitlines() if x.startswith(f"{what}:")), "")
    return int(line.split()[1]) * 1024 if line else 0
