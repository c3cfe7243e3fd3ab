"""Where voxels lie: the axes of a file as those of the patient, and grids of another spacing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Turn:
    """A permutation and flips that bring the axes (i, j, k) of a file to right, front and head (x, y, z).

    Each axis becomes the patient's axis that it is nearest to; both directions are exact.
    """

    def __init__(self, affine: Array) -> None:
        cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        self.axes = max(permutations(range(3)), key=lambda p: sum(abs(cosines[r, p[r]]) for r in range(3)))
        self.flipped = tuple(bool(cosines[r, self.axes[r]] < 0) for r in range(3))

    def of(self, numbers: Sequence[Any] | Array) -> tuple[Any, ...]:
        """Three numbers, one for each axis of the file, for x, y and z."""
        return tuple(numbers[axis] for axis in self.axes)

    def back(self, numbers: Sequence[Any]) -> tuple[Any, ...]:
        """Three numbers for x, y and z, one for each axis of the file."""
        return tuple(numbers[self.axes.index(axis)] for axis in range(3))

    def apply(self, array: Array) -> Array:
        """A view of (channels, i, j, k) as (channels, x, y, z)."""
        return array.transpose(0, *(1 + axis for axis in self.axes))[(slice(None), *self._flips())]

    def undo(self, array: Array) -> Array:
        """A view of (channels, x, y, z) as (channels, i, j, k)."""
        back = array[(slice(None), *self._flips())]
        return back.transpose(0, *(1 + self.axes.index(axis) for axis in range(3)))

    def _flips(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flipped)


def spacing(affine: Array) -> Array:
    """The size of a voxel along i, j and k, in mm."""
    sides: Array = np.linalg.norm(affine[:3, :3], axis=0)
    return sides


def resampled_shape(
    shape: Sequence[int], spacing_mm: Sequence[Any], target_mm: Sequence[float]
) -> tuple[int, ...]:
    """Voxels along each axis at another spacing; a volume keeps its outer edges."""
    return tuple(max(1, round(n * float(s) / t)) for n, s, t in zip(shape, spacing_mm, target_mm))


def resample(volume: Array, shape: Sequence[int], flipped: Sequence[bool]) -> Array:
    """(i, j, k) in float32 to `shape`, linear along each axis, about the outer edges.

    `flipped` axes are sampled where they would be had they been turned first.
    """
    for axis in (1, 0, 2):
        volume = _along(volume, axis, shape[axis], flipped[axis])
    return volume


def _along(volume: Array, axis: int, wanted: int, flipped: bool) -> Array:
    voxels = volume.shape[axis]
    scale = np.float32(voxels) / np.float32(wanted)
    centre = np.arange(wanted, dtype=np.float32) + np.float32(0.5)
    at = np.maximum((centre.astype(np.float64) * scale - 0.5).astype(np.float32), 0)
    first = np.minimum(at.astype(np.intp), voxels - 1)
    second = np.minimum(first + 1, voxels - 1)
    weight = np.clip(at - first.astype(np.float32), 0, 1)
    if flipped:
        first, second, weight = voxels - 1 - first[::-1], voxels - 1 - second[::-1], weight[::-1]
    if np.array_equal(first, np.arange(voxels)) and not weight.any():
        return volume
    weight = weight.reshape([-1 if a == axis else 1 for a in range(3)])
    made: Array = volume.take(first, axis) * (1 - weight)
    made += volume.take(second, axis) * weight
    return made
