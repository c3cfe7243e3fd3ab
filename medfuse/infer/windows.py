"""Where windows stand and how much each one counts: arithmetic, one axis at a time."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from medfuse.core.region import Region

AxisName = Literal["x", "y", "z"]
Stepped = Literal["constant", "gaussian"]
"""The weights of windows that lie a step apart, as MONAI's do."""


@dataclass(frozen=True, eq=False)
class Axis:
    """The windows along one axis: `starts` in voxels, and `weights` (len(starts), window).

    At every voxel the weights of all windows that cover it sum to 1.
    """

    starts: tuple[int, ...]
    weights: npt.NDArray[np.float32]

    @property
    def ends(self) -> tuple[int, ...]:
        return tuple(start + self.weights.shape[1] for start in self.starts)

    def bricks(self) -> list[slice]:
        """For each window the voxels that no later one covers: together they tile the axis."""
        return [slice(a, b) for a, b in zip(self.starts, (*self.starts[1:], self.ends[-1]))]

    def own(self) -> list[slice]:
        """For each window the voxels whose middle it is nearest to: together they tile the axis as well."""
        middles = [(start + end) // 2 for start, end in zip(self.starts[1:], self.ends)]
        return [slice(a, b) for a, b in zip((self.starts[0], *middles), (*middles, self.ends[-1]))]

    def firsts(self) -> list[slice]:
        """For each window the voxels that no earlier one covers: together they tile the axis too."""
        return [slice(a, b) for a, b in zip((self.starts[0], *self.ends[:-1]), self.ends)]


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

    `shape` is what they cover: the volume, padded to the window where it is smaller. Windows come row by row
    along axis number `sweep`; of the other two, the last runs fastest.
    """

    shape: tuple[int, int, int]
    window: tuple[int, int, int]
    axes: tuple[Axis, Axis, Axis]
    sweep: int = 0

    def __len__(self) -> int:
        return math.prod(len(axis.starts) for axis in self.axes)

    def __iter__(self) -> Iterator[Window]:
        return map(self.at, self.indices())

    @property
    def order(self) -> tuple[int, int, int]:
        """Numbers of the axes, from the slowest to the fastest."""
        second, third = (axis for axis in range(3) if axis != self.sweep)
        return self.sweep, second, third

    def indices(self) -> Iterator[tuple[int, int, int]]:
        """The numbers of each window along x, y and z, in the order of the windows."""
        for numbers in itertools.product(*(range(len(self.axes[axis].starts)) for axis in self.order)):
            at = dict(zip(self.order, numbers))
            yield at[0], at[1], at[2]

    def own(self, index: tuple[int, int, int]) -> tuple[slice, slice, slice]:
        """The voxels that the window with these numbers is nearest to; all windows together tile the grid."""
        x, y, z = (axis.own()[n] for axis, n in zip(self.axes, index))
        return x, y, z

    def at(self, index: tuple[int, int, int]) -> Window:
        """The window with these numbers along x, y and z."""
        at = tuple(zip(self.axes, index))
        x, y, z = (slice(axis.starts[n], axis.ends[n]) for axis, n in at)
        wx, wy, wz = (axis.weights[n] for axis, n in at)
        return Window((x, y, z), (wx, wy, wz))


def plan_grid(
    shape: Sequence[int],
    patch_size: Sequence[int],
    overlap: float,
    sweep: AxisName | None = None,
    stepped: Stepped | None = None,
) -> Grid:
    """Windows of `patch_size` over a volume of `shape` (x, y, z); two numbers mean every (x, y) slice.

    They are evenly spread and weighed by gaussians, or lie a step apart, and are weighed as `stepped` says.
    Where `sweep` is not said it is the axis that leaves least unfinished on the way: the longest, or that of
    the slices. Of equal ones it is the longest, then the first.
    """
    x, y, z = (*patch_size, 1)[:3]
    covered = max(shape[0], x), max(shape[1], y), max(shape[2], z)
    a, b, c = (plan_axis(n, size, overlap, stepped) for n, size in zip(covered, (x, y, z)))
    sweeps = range(3) if sweep is None else ["xyz".index(sweep)]
    grids = [Grid(covered, (x, y, z), (a, b, c), sweep=axis) for axis in sweeps]
    return min(grids, key=lambda grid: (int(carried_voxels(grid).max()), -covered[grid.sweep]))


def windows_in(grid: Grid, region: Region) -> int:
    """How many windows touch the region of an image that stands in the middle of the grid."""
    before = [(wanted - n) // 2 for wanted, n in zip(grid.shape, region.shape)]

    def part(where: tuple[slice, slice, slice]) -> tuple[slice, slice, slice]:
        x, y, z = (
            slice(max(one.start - first, 0), min(one.stop - first, n))
            for one, first, n in zip(where, before, region.shape)
        )
        return x, y, z

    return sum(region.touches(part(window.where)) for window in grid)


def carried_voxels(grid: Grid) -> npt.NDArray[np.int64]:
    """How many voxels, after each of the windows, are touched but not finished.

    The first window that touches a voxel is the first on every axis, and so is the last one: what a window
    adds to the unfinished and takes from it are products of lengths along the axes.
    """
    touched = _voxels([axis.firsts() for axis in grid.axes], grid.order)
    return np.cumsum(touched - brick_voxels(grid))


def hot_voxels(grid: Grid) -> npt.NDArray[np.int64]:
    """How many of `carried_voxels` a further window of the same row along `sweep` touches."""
    second, third = ([axis.firsts(), axis.bricks()] for axis in (grid.axes[a] for a in grid.order[1:]))
    touched, finished = (_voxels([second[n], third[n]], (0, 1)) for n in (0, 1))
    row = grid.window[grid.sweep] * np.cumsum(touched - finished)
    return np.tile(row, len(grid.axes[grid.sweep].starts))


def brick_voxels(grid: Grid) -> npt.NDArray[np.int64]:
    """How many voxels each of the windows finishes."""
    return _voxels([axis.bricks() for axis in grid.axes], grid.order)


def _voxels(slices: Sequence[Sequence[slice]], order: Sequence[int]) -> npt.NDArray[np.int64]:
    """Of every combination of an x, a y and a z slice, in this order of the axes."""
    lengths = ([part.stop - part.start for part in slices[axis]] for axis in order)
    return functools.reduce(np.multiply.outer, map(np.array, lengths)).ravel()


def plan_axis(size: int, window: int, overlap: float, stepped: Stepped | None = None) -> Axis:
    """The windows along an axis of `size` ≥ `window` voxels."""
    starts = (steps if stepped else window_starts)(size, window, overlap)
    bell = np.ones(window) if stepped == "constant" else gaussian(window)
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


def steps(size: int, window: int, overlap: float) -> list[int]:
    """Where windows begin that lie a whole number of voxels apart, the last one flush (MONAI's)."""
    step = max(1, int(window * (1 - overlap)))
    span = max(0, size - window)
    return [min(i * step, span) for i in range(math.ceil(span / step) + 1)]


def gaussian(window: int) -> npt.NDArray[np.float64]:
    """A bell over `window` voxels with a standard deviation of window/8 (Isensee et al. 2021)."""
    offset = np.arange(window) - (window - 1) / 2
    return np.exp(-0.5 * (offset / (window / 8)) ** 2)
