"""Where an image shows nothing but air, so that no window need look there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 8
DARK = 0.1


@dataclass(frozen=True, eq=False)
class Body:
    """Which blocks (x, y, z) of an image, of 8 × 8 × 8 voxels, hold anything brighter than air."""

    blocks: npt.NDArray[np.bool_]

    def touches(self, where: tuple[slice, slice, slice]) -> bool:
        """Whether any block that reaches into `where`, in voxels of the image, holds anything."""
        x, y, z = (slice(part.start // BLOCK, -(-part.stop // BLOCK)) for part in where)
        return bool(self.blocks[x, y, z].any())


def find_body(image: Any) -> Body:
    """The body in an image (channels, x, y, z), which is read once, a few rows of x at a time.

    A channel's air reaches a tenth of the way from its darkest voxel to the 95th percentile of the blocks'
    brightest ones. A block belongs to the body if it is brighter in any channel, or holds NaN.
    """
    darkest, brightest = [], []
    for begin in range(0, image.shape[1], BLOCK):
        rows = np.asarray(image[:, begin : begin + BLOCK, :, :], dtype=np.float32)
        darkest.append(rows.min((1, 2, 3)))
        brightest.append(_block_maxima(rows.max(1)))
    low, high = np.min(darkest, 0), np.stack(brightest, 1)  # (channels,), (channels, x, y, z) in blocks
    air = low + DARK * (np.percentile(high, 95, axis=(1, 2, 3)) - low)
    return Body(~(high <= air[:, None, None, None]).all(0))


def _block_maxima(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(channels, y, z) → the same in blocks."""
    for axis in (1, 2):
        rows = np.maximum.reduceat(rows, np.arange(0, rows.shape[axis], BLOCK), axis)
    return rows
