"""Volumes of fewer voxels: means of an image, the most frequent value of a label map."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from math import ceil, prod
from typing import Any

import numpy as np
import numpy.typing as npt

Factors = tuple[int, int, int]
"""How many voxels along each axis become one."""

LONGEST = 2048
"""Voxels along an axis: browsers hold no longer 3-D textures."""
_ALIKE = 1.05
_MOST_COMPARED = 64  # voxels of a block whose most frequent value is looked for


def factors(shape: Sequence[int], spacing_mm: Sequence[float], most_voxels: int) -> Factors:
    """Those that leave at most `most_voxels`: the finest axes give way first, two alike ones together."""
    found = [max(1, ceil(n / LONGEST)) for n in shape]
    while prod(sizes(shape, found)) > most_voxels:
        able = [axis for axis in range(3) if found[axis] < shape[axis]]
        if not able:
            break
        finest = min(spacing_mm[axis] * found[axis] for axis in able)
        alike = [axis for axis in able if spacing_mm[axis] * found[axis] <= _ALIKE * finest]
        for axis in alike[-1:] if len(alike) == 3 else alike:
            found[axis] += 1
    x, y, z = found
    return x, y, z


def sizes(shape: Sequence[int], by: Sequence[int]) -> tuple[int, ...]:
    """The shape that is left; the last block of an axis may be smaller."""
    return tuple(ceil(n / f) for n, f in zip(shape, by))


def coarse_affine(affine: npt.NDArray[np.float64], by: Factors) -> npt.NDArray[np.float64]:
    """Of voxels that lie in the middle of their blocks."""
    middle = np.eye(4)
    middle[:3, :3] = np.diag(by)
    middle[:3, 3] = (np.asarray(by) - 1) / 2
    return affine @ middle


def means(image: npt.NDArray[Any], by: Factors) -> npt.NDArray[Any]:
    """The mean of each block (x, y, z); what is not finite counts for nothing, and is NaN where all is."""
    if by == (1, 1, 1):
        return image
    made = np.empty(sizes(image.shape, by), np.float32, order="F")
    starts = [np.arange(0, n, f) for n, f in zip(image.shape, by)]
    for k, z in enumerate(starts[2]):
        block = image[:, :, z : z + by[2]].astype(np.float32)
        known = np.isfinite(block)
        full = bool(known.all())
        with np.errstate(invalid="ignore", divide="ignore"):
            total = _sums(block if full else np.where(known, block, 0), starts)
            count = _sums(np.ones_like(block) if full else known.astype(np.float32), starts)
            made[:, :, k] = total / count
    return made


def _sums(block: npt.NDArray[Any], starts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    flat = block.sum(axis=2)
    return np.add.reduceat(np.add.reduceat(flat, starts[0], axis=0), starts[1], axis=1)


def most_frequent(labels: npt.NDArray[Any], by: Factors) -> npt.NDArray[Any]:
    """The value that most voxels of a block (x, y, z) have; of several such, one that is no background.

    Of blocks that are too large to be counted, the voxel in the middle.
    """
    if by == (1, 1, 1):
        return labels
    if prod(by) > _MOST_COMPARED:
        places = (np.minimum(np.arange(0, n, f) + f // 2, n - 1) for n, f in zip(labels.shape, by))
        return labels[np.ix_(*places)]
    even = [(0, -n % f) for n, f in zip(labels.shape, by)]
    labels = np.pad(labels, even, mode="edge") if any(more for _, more in even) else labels
    candidates = [labels[x :: by[0], y :: by[1], z :: by[2]] for x, y, z in product(*(range(f) for f in by))]
    made = candidates[0].copy(order="F")
    mixed = np.zeros(made.shape, bool)
    for one in candidates[1:]:
        mixed |= one != candidates[0]
    if mixed.any():
        made[mixed] = _voted(np.stack([one[mixed] for one in candidates]))
    return made


def _voted(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The most frequent of each column."""
    votes = (values != 0).astype(np.int16)
    for a, b in combinations(range(len(values)), 2):
        same = (values[a] == values[b]).astype(np.int16) * 2
        votes[a] += same
        votes[b] += same
    return np.take_along_axis(values, votes.argmax(axis=0)[None], axis=0)[0]
