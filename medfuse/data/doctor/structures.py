"""Each label of a case in numbers: its size and place, how it ends on each side, and slices that it lacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

FACES = ("left", "right", "back", "front", "foot", "head")
"""The ends of the axes x, y and z (RAS+), low and high."""
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Structure:
    """One label, or all together (value 0). `ends`: the share of its largest cross-section that its last
    slice has on each of FACES, towards background; 0 where that is the edge of the image. `gaps`: of each
    axis, the slices inside that lack it while those beside have it.
    """

    value: int
    voxels: int
    centre: tuple[float, float, float]  # voxels
    box: Box
    ends: tuple[float, ...]
    gaps: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def structures_of(labels: npt.NDArray[Any]) -> dict[int, Structure]:
    """Of a label map (x, y, z), RAS+; 0 stands for all labels together."""
    values = [int(v) for v in np.unique(labels) if v]
    if not values:
        return {}
    numbers = np.zeros(max(values) + 1, np.int32) if max(values) < 2**16 else None
    if numbers is None:
        numbered = np.searchsorted([0, *values], labels).astype(np.int32)
    else:
        numbers[values] = range(1, len(values) + 1)
        numbered = numbers[labels]
    found: dict[int, Structure] = {}
    for value, box in zip(values, find_objects(numbered)):
        found[value] = _structure(value, numbered, box, number=len(found) + 1)
    low = [min(one.box[a].start for one in found.values()) for a in range(3)]
    high = [max(one.box[a].stop for one in found.values()) for a in range(3)]
    whole: Box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
    return {0: _structure(0, numbered, whole, number=None), **found}


def _structure(value: int, numbered: npt.NDArray[np.int32], box: Box, number: int | None) -> Structure:
    inside = numbered[box]
    mask = inside != 0 if number is None else inside == number
    sums = [mask.sum(axis=others) for others in ((1, 2), (0, 2), (0, 1))]
    total = int(sums[0].sum())
    centre = [float((np.arange(len(n)) * n).sum()) / max(total, 1) + side.start for n, side in zip(sums, box)]
    ends, gaps = [], []
    for axis, (areas, side) in enumerate(zip(sums, box)):
        for last, beyond in ((0, side.start - 1), (len(areas) - 1, side.stop)):
            ends.append(_end(mask, numbered, box, axis, last, beyond, float(areas.max())))
        gaps.append(_gaps(mask, axis, areas))
    return Structure(
        value, total, (centre[0], centre[1], centre[2]), box, tuple(ends), (gaps[0], gaps[1], gaps[2])
    )


def _end(
    mask: npt.NDArray[np.bool_],
    numbered: npt.NDArray[np.int32],
    box: Box,
    axis: int,
    last: int,
    beyond: int,
    most: float,
) -> float:
    if not 0 <= beyond < numbered.shape[axis] or most <= 0:
        return 0.0
    others = tuple(side for a, side in enumerate(box) if a != axis)
    outside = np.take(numbered, beyond, axis)[others]
    return float((np.take(mask, last, axis) & (outside == 0)).sum()) / most


_LARGE = 0.15  # of the largest cross-section that slices beside a gap have


def _gaps(mask: npt.NDArray[np.bool_], axis: int, areas: npt.NDArray[np.int64]) -> tuple[int, ...]:
    """Runs of empty slices whose two neighbours are large and alike."""
    found: list[int] = []
    empty = np.flatnonzero(areas == 0)
    for run in np.split(empty, np.flatnonzero(np.diff(empty) > 1) + 1):
        if not run.size or run[0] == 0 or run[-1] == len(areas) - 1:
            continue
        before, after = (np.take(mask, n, axis) for n in (run[0] - 1, run[-1] + 1))
        sizes = before.sum(), after.sum()
        if min(sizes) >= max(4, _LARGE * areas.max()) and 2 * (before & after).sum() >= 0.5 * sum(sizes):
            found += [int(n) for n in run]
    return tuple(found)
