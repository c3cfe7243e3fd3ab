"""A volume as its file has it, whole or slab by slab, and what makes one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry


@dataclass(frozen=True, eq=False)
class Volume:
    """An image file: `array` is (i, j, k) or, for a 4-D file, (i, j, k, channel), in the file's own order."""

    array: npt.NDArray[Any]
    geometry: Geometry


Slab = tuple[int, int, npt.NDArray[Any]]
"""Channel, first row k, voxels (i, j, rows)."""


@dataclass(frozen=True, eq=False)
class SlabReader:
    """An image file whose header is read, and whose voxels come slab by slab, in the order of the file.

    `slab_bytes`: about the most that reading takes, whatever the slabs are used for.
    """

    path: Path
    geometry: Geometry
    channels: int
    slab_bytes: int
    read: Callable[[], Iterator[Slab]]
    """All rows k of channel 0, then those of channel 1, …; raises DataError as `read_volume` does."""


SLAB_VOXELS = 2**21
"""About how many voxels a slab has: enough that a slab's fixed cost is nothing, 8 MiB in float32."""


def rows_per_slab(shape: Sequence[int]) -> int:
    """How many rows k of a volume (i, j, k) make a slab."""
    return max(1, SLAB_VOXELS // (shape[0] * shape[1]))


def slabs_of(volume: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """The slabs of a volume (i, j, k) in memory, with their first rows."""
    step = rows_per_slab(volume.shape)
    for first in range(0, volume.shape[2], step):
        yield first, volume[:, :, first : first + step]


def smallest_integer(largest: int) -> npt.DTypeLike:
    """The smallest unsigned type that holds 0 … `largest`."""
    return np.min_scalar_type(largest)


def native(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Voxels in this machine's byte order. Raises DataError where they are not plain numbers."""
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        kind = "colours" if array.dtype.names else f"{array.dtype} numbers"
        raise DataError(f"{path}: its voxels are {kind}; convert them to integers, float32 or float64")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def checked_geometry(path: Path, shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> Geometry:
    """The grid of a file with such a header. Raises DataError."""
    if len(shape) == 2:
        raise DataError(
            f"{path}: has 2 axes {shape}; a volume has 3 (one slice is written as a third axis of 1)"
        )
    if len(shape) < 3 or sum(n != 1 for n in shape[3:]) > 1 or 0 in shape:
        raise DataError(
            f"{path}: has shape {shape}; a volume has 3 axes, or 4 with channels last, none of them empty"
        )
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not np.isfinite(affine).all() or not lengths.all() or abs(np.linalg.det(axes / lengths)) < 1e-6:
        raise DataError(
            f"{path}: its affine is not invertible (a spacing of 0 or not a number); mend its header"
        )
    return Geometry((shape[0], shape[1], shape[2]), affine)
