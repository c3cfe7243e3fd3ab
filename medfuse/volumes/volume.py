"""A volume as its file has it, whole or slab by slab."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry
from medfuse.core.memory import bytes_text, free_memory
from medfuse.core.text import by


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

    `dtype`: of the slabs. `slab_bytes`: about the most that reading takes, whatever the slabs are used for.
    """

    path: Path
    geometry: Geometry
    channels: int
    dtype: np.dtype[Any]
    slab_bytes: int
    read: Callable[[], Iterator[Slab]]
    """All rows k of channel 0, then those of channel 1, …; raises DataError as `read_volume` does.

    Whether the file is whole is known when the last slab has been taken, and another is asked for.
    """

    @property
    def voxel_bytes(self) -> int:
        """What all voxels take in memory."""
        return prod(self.geometry.shape) * self.channels * self.dtype.itemsize

    def whole(self) -> Volume:
        """All of it in memory; axes of one channel are left out. Raises DataError where there is no room."""
        self.check_room(self.voxel_bytes)
        pages = bytearray(self.voxel_bytes)  # numpy asks for huge pages, of which some machines are slow
        array = np.ndarray((*self.geometry.shape, self.channels), self.dtype, pages, order="F")
        for channel, first, slab in self.read():
            array[:, :, first : first + slab.shape[2], channel] = slab
        return Volume(array if self.channels > 1 else array[..., 0], self.geometry)

    def check_room(self, more: int) -> None:
        """Raises DataError where reading, with `more` bytes beside it, takes more memory than is free."""
        needed, free = self.slab_bytes + more, free_memory()
        if needed > free:
            raise DataError(
                f"{self.path}: its header says {by(self.geometry.shape)} voxels, which need "
                f"{bytes_text(needed)} of memory, and {bytes_text(free)} are free; crop or resample it, or "
                "mend its header"
            )


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


def values_of(label_map: npt.NDArray[np.integer[Any]]) -> list[int]:
    """Every value of (i, j, k) voxels, in order; of which no copy is made."""
    return sorted(set[int]().union(*(_distinct(slab) for _, slab in slabs_of(label_map))))


def counts_of(label_map: npt.NDArray[np.integer[Any]]) -> dict[int, int]:
    """How many of the voxels (i, j, k) have each value, values in order; of which no copy is made."""
    found: dict[int, int] = {}
    for _, slab in slabs_of(label_map):
        flat = slab.ravel(order="K")
        if flat.itemsize == 1 and flat.dtype.kind == "u":
            counts = np.bincount(flat)
            values = np.flatnonzero(counts)
            pairs = zip(values.tolist(), counts[values].tolist())
        else:
            pairs = zip(*(some.tolist() for some in np.unique(flat, return_counts=True)))
        for value, count in pairs:
            found[value] = found.get(value, 0) + count
    return dict(sorted(found.items()))


def places_of(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Where voxels (i, j, k) are true, as `np.flatnonzero` tells it, but looked through as they lie."""
    if mask.flags.c_contiguous:
        return np.flatnonzero(mask)
    k, j, i = np.nonzero(mask.T)
    found: npt.NDArray[np.intp] = np.ravel_multi_index((i, j, k), mask.shape)
    found.sort()
    return found


def _distinct(slab: npt.NDArray[np.integer[Any]]) -> list[int]:
    """Its values. Neighbours are mostly alike: of eight bytes at a time there are few that differ."""
    flat = slab.ravel(order="K")
    whole = flat.size * flat.itemsize // 8 * 8 // flat.itemsize
    words = np.unique(flat[:whole].view(np.uint64)).view(flat.dtype)
    return np.unique(np.concatenate([words, flat[whole:]])).tolist()


def smallest_integer(largest: int) -> npt.DTypeLike:
    """The smallest unsigned type that holds 0 … `largest`."""
    return np.min_scalar_type(largest)


def plain_numbers(path: Path, stored: np.dtype[Any]) -> None:
    """Raises DataError where voxels are not integers or floats of 8 bytes at most."""
    if stored.kind not in "iuf" or stored.itemsize > 8:
        kind = "colours" if stored.names else f"{stored} numbers"
        raise DataError(f"{path}: its voxels are {kind}; convert them to integers, float32 or float64")


def checked_geometry(path: Path, shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> Geometry:
    """The grid of a file with such a header, of one slice where it has 2 axes. Raises DataError."""
    if len(shape) < 2 or sum(n != 1 for n in shape[3:]) > 1 or min(shape) < 1:
        raise DataError(
            f"{path}: has shape {shape}; a volume has 3 axes, or 4 with channels last, none of them empty"
        )
    axes = affine[:3, :3]
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(axes, axis=0)
        flat = not np.isfinite(lengths).all() or not lengths.all() or not np.isfinite(affine).all()
        flat = flat or abs(np.linalg.det(axes / lengths)) < 1e-6
    if flat:
        raise DataError(
            f"{path}: its affine is not invertible (a spacing of 0 or not a number); mend its header"
        )
    i, j, k = (*shape, 1)[:3]
    return Geometry((i, j, k), affine)


def with_third_axis(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The affine of an image of 2 axes: its slice stands upright on them, and is 1 mm thick."""
    with np.errstate(all="ignore"):
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        affine = affine.copy()
        affine[:3, 2] = normal / np.linalg.norm(normal)
    return affine
