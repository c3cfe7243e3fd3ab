"""What a scan takes at inference: its windows, and reading, stitching and writing around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING

from medfuse.data.plan import resampled_shape
from medfuse.infer.windows import window_starts

if TYPE_CHECKING:
    from medfuse.data.fingerprint import CaseFacts


@dataclass(frozen=True)
class Around:
    """Seconds of a scan beside its windows: reading, resampling, stitching, deciding, writing.

    `voxels`: of the scan's file, with which they grow.
    """

    seconds: float
    voxels: int


@dataclass(frozen=True)
class ScanSeconds:
    """Of the median scan, of one than which nine in ten are faster, and of the largest.

    `windows`: the part of the median scan's that goes into its windows.
    """

    median: float
    ninth: float
    largest: float
    windows: float

    @property
    def around(self) -> float:
        """The other part: reading, resampling, stitching, writing."""
        return self.median - self.windows


def scan_seconds(
    cases: Sequence[CaseFacts],
    spacing_mm: tuple[float, float, float],
    window: Sequence[int],
    overlap: float,
    seconds: float,
    around: Around,
) -> ScanSeconds:
    """Of `cases`, where one window of this size (x, y, z; or x, y for slices) takes so many seconds."""
    found = []
    for case in cases:
        shape = resampled_shape(case.shape, case.spacing_mm, spacing_mm)
        windows = seconds * windows_of(shape, window, overlap)
        found.append((windows + around.seconds * prod(case.shape) / around.voxels, windows))
    found.sort()
    median = found[len(found) // 2]
    return ScanSeconds(median[0], found[ceil(0.9 * len(found)) - 1][0], found[-1][0], median[1])


def windows_of(shape: Sequence[int], window: Sequence[int], overlap: float) -> int:
    """How many windows a scan of this shape (x, y, z) has; a window of two sides sees every slice."""
    sides = (*window, 1)[:3]
    return prod(len(window_starts(max(n, side), side, overlap)) for n, side in zip(shape, sides))
