"""How large the pieces of a structure are: an organ is one, lesions are many, and a plan must show each."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.labels import LabelValue, members

AT_ONCE = 2**23
"""Voxels in which pieces are told apart; a larger structure is looked at in blocks of voxels."""


def usual_pieces(
    labels: npt.NDArray[Any], named: Mapping[str, LabelValue], voxel_ml: float
) -> dict[str, float]:
    """Of each structure that is there: millilitres of the piece that holds its middle voxel, pieces in order
    of their size. Half of the structure is in pieces at least so large.

    `labels`: (x, y, z), values of `named`. Voxels that touch, corners included, are one piece.
    """
    from scipy.ndimage import find_objects

    most = max((v for value in named.values() for v in members(value)), default=0)
    as_they_lie = labels.T if labels.flags.f_contiguous else labels
    boxes = find_objects(_signed(as_they_lie), max_label=most)  # of value 1 first
    if as_they_lie is not labels:
        boxes = [box and box[::-1] for box in boxes]
    found = {}
    for name, value in named.items():
        there = {v: boxes[v - 1] for v in members(value) if v > 0 and boxes[v - 1] is not None}
        if there:
            box = tuple(
                slice(min(b[axis].start for b in there.values()), max(b[axis].stop for b in there.values()))
                for axis in range(3)
            )
            found[name] = usual_piece(np.isin(labels[box], [*there])) * voxel_ml
    return found


def _signed(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """In a type that scipy looks through."""
    return labels if labels.dtype in (np.uint8, np.int32) else labels.astype(np.int32)


def usual_piece(mask: npt.NDArray[np.bool_]) -> int:
    """Voxels of the piece that holds the middle one of the true voxels of `mask` (x, y, z); it has some."""
    from scipy.ndimage import label

    blocks = _voxels_of_blocks(mask)
    pieces, _ = label(blocks > 0, np.ones((3, 3, 3)))
    sizes = np.sort(np.bincount(pieces.ravel(), weights=blocks.ravel())[1:])
    return int(sizes[np.searchsorted(np.cumsum(sizes), sizes.sum() / 2)])


def _voxels_of_blocks(mask: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """How many voxels are true in each block of `mask`; a block is one voxel where those are not too many."""
    side = ceil((mask.size / AT_ONCE) ** (1 / 3))
    found: npt.NDArray[Any] = mask.view(np.uint8)
    for axis in range(3) if side > 1 else ():
        longer = np.moveaxis(found, axis, 0)
        shorter = longer[::side].astype(
            np.uint32 if side > 6 else np.uint8
        )  # 6³ is the most that a byte holds
        for place in range(1, side):
            row = longer[place::side]
            np.add(shorter[: len(row)], row, out=shorter[: len(row)])
        found = np.moveaxis(shorter, 0, axis)
    return found
