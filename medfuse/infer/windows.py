"""Where windows stand and how much each one counts: arithmetic, one axis at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Axis:
    """The windows along one axis: `starts` in voxels, and `weights` (len(starts), window).

    At every voxel the weights of all windows that cover it sum to 1.
    """

    starts: tuple[int, ...]
    weights: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Window:
    """One window: its place in the padded volume, and its weight along each axis.

    The weight of a voxel is the product of the three, so that over a whole grid weights sum to 1 too.
    """

    where: tuple[slice, slice, slice]
    weights: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Grid:
    """Windows of one size over a volume: every combination of the windows of its three axes.

    `shape` is what they cover: the volume, padded to the window where it is smaller.
    """

    shape: tuple[int, int, int]
    window: tuple[int, int, int]
    axes: tuple[Axis, Axis, Axis]

    def __len__(self) -> int:
        return math.prod(len(axis.starts) for axis in self.axes)

    def __iter__(self) -> Iterator[Window]:
        """The last axis runs fastest."""
        for i, j, k in itertools.product(*(range(len(axis.starts)) for axis in self.axes)):
            at = tuple(zip(self.axes, self.window, (i, j, k)))
            x, y, z = (slice(axis.starts[n], axis.starts[n] + size) for axis, size, n in at)
            wx, wy, wz = (axis.weights[n] for axis, _, n in at)
            yield Window((x, y, z), (wx, wy, wz))


def plan_grid(shape: Sequence[int], patch_size: Sequence[int], overlap: float) -> Grid:
    """Windows of `patch_size` over a volume of `shape` (x, y, z); two numbers mean every (x, y) slice."""
    x, y, z = (*patch_size, 1)[:3]
    covered = max(shape[0], x), max(shape[1], y), max(shape[2], z)
    a, b, c = (plan_axis(n, size, overlap) for n, size in zip(covered, (x, y, z)))
    return Grid(covered, (x, y, z), (a, b, c))


def plan_axis(size: int, window: int, overlap: float) -> Axis:
    """The windows along an axis of `size` ≥ `window` voxels."""
    starts = window_starts(size, window, overlap)
    bell = gaussian(window)
    total = np.zeros(size)
    for start in starts:
        total[start : start + window] += bell
    weights = np.stack([bell / total[start : start + window] for start in starts])
    return Axis(tuple(starts), weights.astype(np.float32))


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Where windows begin: the fewest that overlap by at least `overlap`, evenly spread, last one flush.

    Isensee et al. 2021 (nnU-Net). A window that is larger than the axis begins at 0.
    """
    span = max(0, size - window)
    step = max(1.0, window * (1 - overlap))
    last = math.ceil(span / step - 1e-9)  # 0.3 of a window is not a whole step because of rounding
    return [round(i * span / last) for i in range(last + 1)] if last else [0]


def gaussian(window: int) -> npt.NDArray[np.float64]:
    """A bell over `window` voxels with a standard deviation of window/8 (Isensee et al. 2021)."""
    offset = np.arange(window) - (window - 1) / 2
    return np.exp(-0.5 * (offset / (window / 8)) ** 2)
