"""How rough an image is, in one number: noise makes it larger, blur smaller, whatever the unit."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, log1p

import numpy as np
import numpy.typing as npt

from medfuse.quality.usual import UsualNumbers

NAME = "grain"
FEWEST = 10
"""Cases from which it is known what is usual."""
_LEAST = log1p(0.05)  # the least deviation: a twentieth
_MOST_VOXELS = 2**22


def grain_of(image: npt.NDArray[np.float32]) -> float | None:
    """The logarithm of mean second differences along x and y, beside the mean deviation of all voxels.

    image: (channels, x, y, z), of which planes are taken evenly where it is large; the mean over channels.
    None where an axis has fewer than three voxels, and where a channel has one value alone.
    """
    _, x, y, z = image.shape
    if min(x, y) < 3 or not z:
        return None
    step = max(1, -(-image[0].size // _MOST_VOXELS))
    found = [_of_channel(np.asarray(channel[:, :, step // 2 :: step], np.float64)) for channel in image]
    known = [one for one in found if one is not None]
    return float(np.mean(known)) if len(known) == len(found) else None


def _of_channel(planes: npt.NDArray[np.float64]) -> float | None:
    deviation = float(np.abs(planes - planes.mean()).mean())
    rough = [float(np.abs(np.diff(planes, 2, axis=axis)).mean()) for axis in (0, 1)]
    if not np.isfinite([deviation, *rough]).all() or min(deviation, *rough) <= 0:
        return None
    return sum(log(one / deviation) for one in rough) / 2


def usual_grain(found: Sequence[float]) -> UsualNumbers | None:
    """What is usual, of the grain of each of some cases; None of too few."""
    return UsualNumbers.of([[one] for one in found], [_LEAST]) if len(found) >= FEWEST else None
