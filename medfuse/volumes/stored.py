"""Voxels as a file stores them, one after the other, and how they become slabs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry
from medfuse.core.memory import bytes_text
from medfuse.core.offline import import_offline
from medfuse.core.text import by
from medfuse.volumes import volume
from medfuse.volumes.faults import broken
from medfuse.volumes.inflate import MOST_RATIO, Damaged, Encoding, Piece, opened, read_to_end
from medfuse.volumes.volume import Slab, SlabReader, plain_numbers, rows_per_slab

_MOST_TEXT = 1 << 28
_FOLLOWED = 1 << 26  # so many bytes behind the voxels are read to find out whether a file is damaged
_BLOCK = 512  # bytes: zeros that fill up the last block of a file are padding


@dataclass(frozen=True, eq=False)
class Stored:
    """What a header says of the voxels: `skip` bytes into the (decompressed) data, first axis fastest.

    `channel_axis`: before which of the axes (i, j, k) that of the channels stands, after all of them if 3.
    `slope` and `inter` make what was measured of what is stored.
    """

    path: Path
    geometry: Geometry
    channels: int
    dtype: np.dtype[Any]
    pieces: tuple[Piece, ...]
    encoding: Encoding
    skip: int = 0
    slope: float = 1.0
    inter: float = 0.0
    channel_axis: int = 3

    @property
    def voxel_bytes(self) -> int:
        return prod(self.geometry.shape) * self.channels * self.dtype.itemsize

    def scaled(self, voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """In this machine's byte order, and as measured."""
        scale = import_offline("nibabel.volumeutils").apply_read_scaling
        with np.errstate(all="ignore"):  # who reads it tells of numbers that are not finite
            made = scale(voxels, np.float64(self.slope), np.float64(self.inter))
        native: npt.NDArray[Any] = made.astype(made.dtype.newbyteorder("="), copy=False)
        return native


def slab_reader(stored: Stored) -> SlabReader:
    """Raises DataError where voxels are no plain numbers, or a file is too small for them, or too large."""
    plain_numbers(stored.path, stored.dtype)
    _check_size(stored)
    dtype = stored.scaled(np.zeros(1, stored.dtype)).dtype
    slab_bytes = 32 * max(prod(stored.geometry.shape[:2]), volume.SLAB_VOXELS)
    read = _in_a_row
    if stored.channel_axis < 3 and stored.channels > 1:
        slab_bytes += 2 * stored.voxel_bytes
        read = _interleaved
    return SlabReader(stored.path, stored.geometry, stored.channels, dtype, slab_bytes, lambda: read(stored))


def _check_size(stored: Stored) -> None:
    try:
        held = sum(max(0, piece.path.stat().st_size - piece.offset) for piece in stored.pieces)
    except OSError as error:
        raise broken(stored.pieces[0].path, error) from error
    wanted = stored.skip + stored.voxel_bytes
    if held * MOST_RATIO[stored.encoding] < wanted:
        raise DataError(
            f"{stored.path}: is truncated or damaged; copy it again from its source (its header says "
            f"{_told(wanted)}, which {held:,} bytes cannot hold)"
        )
    if stored.encoding == "raw" and held - wanted >= _BLOCK:
        raise _unaccounted(stored, _told(held - wanted))


def _unaccounted(stored: Stored, more: str) -> DataError:
    shape = (*stored.geometry.shape, *((stored.channels,) if stored.channels > 1 else ()))
    return DataError(
        f"{stored.path}: its header says {by(shape)} voxels of {stored.dtype.name} "
        f"({_told(stored.voxel_bytes)}), and its data go on for {more}; mend its header, or copy it again "
        "from its source"
    )


def _told(size: int) -> str:
    return bytes_text(size) if size >= 2**30 else f"{size:,} bytes"


def _in_a_row(stored: Stored) -> Iterator[Slab]:
    """The file read once from its beginning to its end, which is all that compression allows."""
    (i, j, k), step = stored.geometry.shape, rows_per_slab(stored.geometry.shape)
    with _data(stored) as file:
        for channel, first in itertools.product(range(stored.channels), range(0, k, step)):
            rows = min(step, k - first)
            raw = _take(file, i * j * rows, stored.dtype)
            yield channel, first, stored.scaled(raw.reshape((i, j, rows), order="F"))


def _interleaved(stored: Stored) -> Iterator[Slab]:
    """All of it is in memory, as the last channel comes with the first."""
    shape = stored.geometry.shape
    with _data(stored) as file:
        whole = _take(file, prod(shape) * stored.channels, stored.dtype)
    axes = (*shape[: stored.channel_axis], stored.channels, *shape[stored.channel_axis :])
    whole = np.moveaxis(whole.reshape(axes, order="F"), stored.channel_axis, 0)
    step = rows_per_slab(shape)
    for channel, first in itertools.product(range(stored.channels), range(0, shape[2], step)):
        yield channel, first, stored.scaled(np.asfortranarray(whole[channel, :, :, first : first + step]))


@contextmanager
def _data(stored: Stored) -> Iterator[IO[bytes]]:
    """The voxels to read; at the end of the block, the rest is read to where a checksum stands.

    Raises DataError where the rest is more than padding: the header may say fewer axes, smaller ones or a
    smaller type than the voxels have, or another place where they begin.
    """
    try:
        if stored.encoding == "text":
            yield _from_text(stored)
            return
        with opened(stored.pieces, stored.encoding) as file:
            _pass(file, stored.skip)
            yield file
            count, filled = read_to_end(file, _FOLLOWED)
            if count and (filled or not _is_padding(stored, count)):
                raise _unaccounted(stored, f"{_told(count)}{' at least' * (count > _FOLLOWED)}")
    except (OSError, Damaged) as error:
        raise broken(stored.path, error) from error


def _is_padding(stored: Stored, zeros: int) -> bool:
    """Whether so many zeros at the end fill up its last block."""
    begin = stored.skip + (stored.pieces[-1].offset if stored.encoding == "raw" else 0)
    return zeros < _BLOCK and (begin + stored.voxel_bytes + zeros) % _BLOCK == 0


def _from_text(stored: Stored) -> IO[bytes]:
    """Numbers in words, as the bytes of the same numbers."""
    with opened(stored.pieces, "raw") as file:
        words = file.read(_MOST_TEXT).split()
    wanted = stored.voxel_bytes // stored.dtype.itemsize
    try:
        numbers = np.array([float(word) for word in words[:wanted]], np.float64)
        with np.errstate(all="ignore"):
            voxels = numbers.astype(stored.dtype)
    except ValueError as error:
        raise Damaged("a voxel is no number") from error
    if (more := len(words) - wanted) > 0:
        raise _unaccounted(stored, f"{more} numbers")
    if len(voxels) < wanted or (stored.dtype.kind in "iu" and (voxels != numbers).any()):
        raise Damaged("it ends too early, or a voxel does not fit its type")
    return BytesIO(voxels.tobytes())


def _pass(file: IO[bytes], count: int) -> None:
    while count > 0:
        some = file.read(min(count, 1 << 20))
        if not some:
            raise Damaged("it ends too early")
        count -= len(some)


def _take(file: IO[bytes], count: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    raw = np.empty(count, dtype)
    if file.readinto(raw.data.cast("B")) < raw.nbytes:  # type: ignore[attr-defined]  # of BufferedReader
        raise Damaged("it ends too early")
    return raw
