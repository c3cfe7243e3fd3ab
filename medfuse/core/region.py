"""The part of an image that is looked at, on a coarser grid over the same extent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Region:
    """`there` (x, y, z) says of each voxel of the coarser grid whether what it covers is looked at.

    `shape` (x, y, z) is that of the image. A voxel of the image is covered by the coarse one that its middle
    lies in.
    """

    there: npt.NDArray[np.bool_]
    shape: tuple[int, int, int]

    def touches(self, where: tuple[slice, slice, slice]) -> bool:
        """Whether any voxel in `where`, slices of the image within its bounds, is looked at."""
        x, y, z = (
            slice(covering(part.start, fine, coarse), covering(part.stop - 1, fine, coarse) + 1)
            for part, fine, coarse in zip(where, self.shape, self.there.shape)
        )
        return bool(self.there[x, y, z].any())

    def whole(self) -> npt.NDArray[np.bool_]:
        """The same on the image's own grid."""
        return spread(self.there, self.shape)


def covering(number: Any, fine: int, coarse: int) -> Any:
    """Which of `coarse` voxels along an axis covers the middle of voxel `number` of `fine`; arrays too."""
    return (2 * number + 1) * coarse // (2 * fine)


def spread(coarse: npt.NDArray[np.bool_], shape: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Each voxel of a grid of `shape` as the voxel of `coarse` that covers it."""
    x, y, z = (covering(np.arange(fine), fine, many) for fine, many in zip(shape, coarse.shape))
    return coarse[np.ix_(x, y, z)]
