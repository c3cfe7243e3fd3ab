"""A case seen from its labels: the image around their box in units of it, so that cases can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from medfuse.data.doctor.shrink import means, middles

CORE = 20
"""Samples along each axis of what is compared; `WINDOW` of what is searched for it."""
WINDOW = 34
_REACH = 0.7  # of the box's length, from its middle to the edge of the core
_LEAST = 6.0  # voxels that a box counts as, at least
_BLOCKS = 72  # per axis of the small volume that is sampled


@dataclass(frozen=True, eq=False)
class Frame:
    """`window` (channels, 34³) of the image, `labels` (20³) of the label map, and the samples' distance in
    voxels along each axis (RAS+)."""

    window: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.unsignedinteger[Any]]
    step: tuple[float, float, float]

    @property
    def core(self) -> npt.NDArray[np.uint8]:
        edge = (WINDOW - CORE) // 2
        inner = slice(edge, edge + CORE)
        return self.window[:, inner, inner, inner]


def frame_of(image: npt.NDArray[Any], labels: npt.NDArray[Any], box: tuple[slice, slice, slice]) -> Frame:
    """`image` (channels, x, y, z) of bytes and `labels` (x, y, z), RAS+; `box`: of all that is labelled."""
    middle = [(side.start + side.stop - 1) / 2 for side in box]
    size = [max(_LEAST, side.stop - side.start) for side in box]
    step = [2 * _REACH * n / CORE for n in size]
    reach = [s * WINDOW / 2 + 1 for s in step]
    cut = tuple(
        slice(max(0, int(m - r)), min(n, int(m + r) + 2)) for m, r, n in zip(middle, reach, labels.shape)
    )
    blocks = [-(-(side.stop - side.start) // _BLOCKS) for side in cut]
    shift = [(b - 1) / 2 + side.start for b, side in zip(blocks, cut)]

    def places(count: int) -> npt.NDArray[np.float64]:
        at = (np.arange(count) - (count - 1) / 2)[:, None] * np.array(step) + middle
        along = ((at - shift) / blocks).T
        return np.stack(np.meshgrid(*along, indexing="ij"))

    window = [
        map_coordinates(means(channel[cut], blocks), places(WINDOW), order=1, mode="nearest")
        for channel in image
    ]
    small = middles(labels[cut], blocks)
    own = map_coordinates(small, places(CORE), order=0, mode="constant")
    return Frame(np.stack(window).round().astype(np.uint8), own, (step[0], step[1], step[2]))
