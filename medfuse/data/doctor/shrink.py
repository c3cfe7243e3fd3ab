"""Volumes made small: means of blocks, and labels at the middle of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def steps_for(shape: Sequence[int], most: int) -> tuple[int, ...]:
    """How many voxels become one along each axis, so that no more than `most` are left."""
    return tuple(-(-n // most) for n in shape)


def means(volume: npt.NDArray[np.generic], steps: Sequence[int]) -> Floats:
    """The mean of each block of a volume (x, y, z); what is left over at the ends is left out."""
    if all(step == 1 for step in steps):
        return np.ascontiguousarray(volume, np.float32)
    x, y, z = (n // step for n, step in zip(volume.shape, steps))
    cut = volume[: x * steps[0], : y * steps[1], : z * steps[2]]
    blocks = cut.reshape(x, steps[0], y, steps[1], z, steps[2])
    return np.asarray(blocks.mean(axis=(1, 3, 5), dtype=np.float32))


def middles(labels: npt.NDArray[np.generic], steps: Sequence[int]) -> npt.NDArray[np.generic]:
    """The voxel in the middle of each block, of as many as `means` has."""
    x, y, z = (n // step * step for n, step in zip(labels.shape, steps))
    i, j, k = (step // 2 for step in steps)
    return labels[i : max(x, 1) : steps[0], j : max(y, 1) : steps[1], k : max(z, 1) : steps[2]]


def spread_out(volume: npt.NDArray[np.generic], count: int) -> npt.NDArray[np.generic]:
    """`count`³ voxels at equal distances, the first and last of each axis not at the very edge."""
    x, y, z = (((np.arange(count) + 0.5) / count * n).astype(int) for n in volume.shape)
    return volume[np.ix_(x, y, z)]
