"""The voxels of a series, slab by slab: decoded by pydicom, scaled per slice, put in their places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from io import SEEK_CUR, BytesIO
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError
from medfuse.core.text import listed
from medfuse.volumes.dicom.index import FrameRecord, Index, PlaneRecord, Source, members, read_index
from medfuse.volumes.dicom.instances import UNCOMPRESSED
from medfuse.volumes.dicom.quiet import quietly
from medfuse.volumes.dicom.streams import check_streams
from medfuse.volumes.faults import broken, last_line
from medfuse.volumes.inflate import Damaged
from medfuse.volumes.volume import Slab, SlabReader, checked_geometry, rows_per_slab

if TYPE_CHECKING:
    from pydicom import Dataset

Pixels = npt.NDArray[Any]

_DEFLATED = "1.2.840.10008.1.2.1.99"
_AS_THEY_STAND = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_NEEDED = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "ModalityLUTSequence"),
)
"""Tags by which pixels are made values."""
_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_EXTRA = 'pip install "medfuse[dicom]"'


def slab_reader(path: Path) -> SlabReader:
    """The volume of a series' index. Raises DataError, also for a compression that nothing here decodes."""
    index = read_index(path)
    if index.faults:
        raise DataError(*index.faults)
    check_syntaxes(f"{index.sources[0].place}: series {index.name}", index.syntaxes)
    affine = np.eye(4)
    affine[:3] = index.affine
    geometry = replace(checked_geometry(path, index.shape, affine), spaced=index.spaced)
    dtype = dtype_of(index)
    slice_bytes = index.shape[0] * index.shape[1] * dtype.itemsize
    slab_bytes = slice_bytes * rows_per_slab(index.shape) + 6 * 8 * index.size[0] * index.size[1]
    return SlabReader(path, geometry, 1, dtype, slab_bytes, lambda: _slabs(path, index, dtype))


def check_syntaxes(where: str, syntaxes: Sequence[str]) -> None:
    """Raises DataError where nothing that is installed decodes pixels of one of the transfer syntaxes."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    faults = []
    for uid in map(UID, filter(None, syntaxes)):
        try:
            decoder = get_decoder(uid)
        except NotImplementedError:  # what pydicom raises for a syntax that it does not know
            faults.append(
                f"{where}: its pixels are stored as {uid.name} ({uid}), which is not read; convert it, for "
                "instance with dcmtk's dcmconv or gdcmconv --raw"
            )
            continue
        if not decoder.is_available:
            faults.append(
                f"{where}: its pixels are compressed as {uid.name} ({uid}), which wants a decoder: {_EXTRA}"
            )
    if faults:
        raise DataError(*faults)


def dtype_of(index: Index) -> np.dtype[Any]:
    """The smallest of uint8, int16, int32 and float64 that holds every value exactly, or float32."""
    if index.table or index.planes or index.bits[0] > 32:
        return np.dtype(np.float32)
    scales = {(frame.slope, frame.intercept) for frame in index.frames}
    if any(slope != int(slope) or inter != int(inter) for slope, inter in scales):
        return np.dtype(np.float32)
    ends = [slope * end + inter for slope, inter in scales for end in index.limits]
    for kind in (np.uint8, np.int16, np.int32):
        limits = np.iinfo(kind)
        if limits.min <= min(ends) and max(ends) <= limits.max:
            return np.dtype(kind)
    return np.dtype(np.float64)


def _slabs(path: Path, index: Index, dtype: np.dtype[Any]) -> Iterator[Slab]:
    planes = [index.plane(k) for k in range(index.shape[2])]
    order = list(dict.fromkeys(n for plane in planes for n, _ in plane.of))
    last = {n: k for k, plane in enumerate(planes) for n, _ in plane.of}
    frames = _values(index, order)
    held: dict[int, Pixels] = {}
    step = rows_per_slab(index.shape)
    for first in range(0, index.shape[2], step):
        some = planes[first : first + step]
        slab = np.empty((*index.shape[:2], len(some)), dtype, order="F")
        for place, plane in enumerate(some):
            while any(n not in held for n, _ in plane.of):
                n, pixels = next(frames)
                held[n] = pixels
            slab[:, :, place] = _placed(plane, held, index.shape)
            for n, _ in plane.of:
                if last[n] == first + place:
                    del held[n]
        yield 0, first, slab


def _placed(plane: PlaneRecord, held: dict[int, Pixels], shape: Sequence[int]) -> Pixels:
    """A slice (i, j): its frames by their weights, moved in its plane; elsewhere its least value."""
    mixed = held[plane.of[0][0]]
    if len(plane.of) > 1:
        mixed = np.sum([weight * held[n].astype(np.float64) for n, weight in plane.of], axis=0)
    if mixed.shape == tuple(shape[:2]) and plane.shift == (0, 0):
        return mixed
    fill = float(mixed.min())
    moved = np.full(tuple(shape[:2]), fill)
    whole = np.floor(plane.shift).astype(int)
    part = np.asarray(plane.shift) - whole
    wide = np.full((mixed.shape[0] + 1, mixed.shape[1] + 1), fill)
    for (a, b), weight in {
        (0, 0): (1 - part[0]) * (1 - part[1]),
        (1, 0): part[0] * (1 - part[1]),
        (0, 1): (1 - part[0]) * part[1],
        (1, 1): part[0] * part[1],
    }.items():
        if weight:
            wide[a : a + mixed.shape[0], b : b + mixed.shape[1]] += weight * (mixed - fill)
    i, j = (min(n, size - start) for n, size, start in zip(wide.shape, moved.shape, whole))
    moved[whole[0] : whole[0] + i, whole[1] : whole[1] + j] = wide[:i, :j]
    return moved


def _values(index: Index, order: Sequence[int]) -> Iterator[tuple[int, Pixels]]:
    """Frames (i, j) in that order, after rescaling. Raises DataError."""
    with members() as read:
        for source, numbers in groupby(order, key=lambda n: index.frames[n].source):
            wanted = list(numbers)
            frames = [index.frames[n] for n in wanted]
            yield from zip(wanted, _decoded(index.sources[source], frames, index, read))


def _decoded(
    source: Source, frames: Sequence[FrameRecord], index: Index, read: Callable[[Source], bytes]
) -> Iterator[Pixels]:
    """Raises DataError where the file is another than it was, damaged, or decodes to something else."""
    where = str(source.place)
    check_unchanged(source)
    opened = Path(source.file) if source.member is None else BytesIO(read(source))
    decoded = _stored(opened, frames, index)
    while True:
        try:
            with quietly():
                values = next(decoded, None)
        except Exception as error:  # decoders raise what they meet in damaged pixels
            raise _not_decoded(where, error, index.syntaxes) from error
        if values is None:
            return
        if values.shape != index.size[::-1]:
            raise DataError(
                f"{where}: decodes to {values.shape[::-1]} pixels, its header says {index.size}; copy it "
                "again from its source"
            )
        yield values.T


def _not_decoded(where: str, error: Exception, syntaxes: Sequence[str]) -> DataError:
    """What to say of pixels that cannot be had: they are damaged, or of a kind that wants more decoders."""
    from pydicom.uid import UID

    packed = [UID(uid).name for uid in syntaxes if uid not in UNCOMPRESSED]
    if packed and find_spec("pylibjpeg") is None:
        return DataError(
            f"{where}: its pixels, compressed as {listed(packed)}, are not decoded by what is installed "
            f"({last_line(error)}): {_EXTRA}"
        )
    return broken(Path(where), Damaged(last_line(error)))


def check_unchanged(source: Source) -> None:
    """Raises DataError where a file is another than it was when its series was put together."""
    path = Path(source.file)
    try:
        said = path.stat()
    except OSError as error:
        raise DataError(f"{path}: is not there any more; give the folder of the scan again") from error
    if (said.st_size, said.st_mtime_ns) != (source.bytes, source.modified_ns):
        raise DataError(f"{path}: has changed since its series was put together; run the command again")


def _stored(opened: Path | BytesIO, frames: Sequence[FrameRecord], index: Index) -> Iterator[Pixels]:
    """Frames (row, column) of a file as values, one after the other."""
    from pydicom import dcmread
    from pydicom.encaps import generate_frames
    from pydicom.pixels.utils import iter_pixels

    numbers = [frame.number for frame in frames]
    with nullcontext(opened) if isinstance(opened, BytesIO) else open(opened, "rb") as file:
        said = dcmread(file, stop_before_pixels=True, force=True, specific_tags=[*_NEEDED])
        named = "TransferSyntaxUID" in said.file_meta
        complete(said)
        if said.file_meta.TransferSyntaxUID in _AS_THEY_STAND and (kind := _kind(said, file.read(4))):
            for frame, stored in zip(frames, _standing(file, said, kind, numbers)):
                yield _valued(stored, said, frame, index)
            return
        if named and said.file_meta.TransferSyntaxUID.is_encapsulated and file.read(4) == _PIXEL_DATA:
            file.seek(8, SEEK_CUR)  # its kind and its length
            count = int(said.get("NumberOfFrames") or 1)
            check_streams(generate_frames(file, number_of_frames=count), int(said.Rows), int(said.Columns))
        file.seek(0)
        if named and said.file_meta.TransferSyntaxUID.is_compressed and (len(numbers) > 1 or numbers[0]):
            for frame, stored in zip(frames, iter_pixels(file, indices=numbers)):
                yield _valued(stored, said, frame, index)
            return
        said = dcmread(file, force=True)
    complete(said)
    names = [name for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if name in said]
    if not names:
        raise ValueError("it holds no pixels")
    _check_length(said, len(said[names[0]].value))
    for frame, stored in zip(frames, iter_pixels(said, indices=numbers)):
        yield _valued(stored, said, frame, index)


def _kind(said: Dataset, tag: bytes) -> np.dtype[Any] | None:
    """The type of pixels that stand as they are; None where the file is not at them, or they are packed."""
    little = said.original_encoding[1]
    found = int.from_bytes(tag[:2], _order(little)) << 16 | int.from_bytes(tag[2:], _order(little))
    bits, floats = int(said.BitsAllocated), {0x7FE00008: 32, 0x7FE00009: 64}
    if found in floats:
        return np.dtype(f"{'<' if little else '>'}f{floats[found] // 8}")
    if found != 0x7FE00010 or bits not in (8, 16, 32) or (bits == 8 and not little):
        return None
    return np.dtype(f"{'<' if little else '>'}{'i' if said.get('PixelRepresentation') else 'u'}{bits // 8}")


def _standing(
    file: IO[bytes], said: Dataset, kind: np.dtype[Any], numbers: Sequence[int]
) -> Iterator[Pixels]:
    """Frames of a file that is behind the tag of its pixels."""
    start, length = _length(said, file)
    _check_length(said, length)
    shape = int(said.Rows), int(said.Columns)
    size = shape[0] * shape[1] * kind.itemsize
    for number in numbers:
        file.seek(start + number * size)
        if len(content := file.read(size)) < size:
            raise ValueError("it ends too early")
        yield np.frombuffer(content, kind).reshape(shape)


def _length(said: Dataset, file: IO[bytes]) -> tuple[int, int]:
    """Where pixels begin, and how many bytes they say that they have."""
    implicit, little = said.original_encoding
    begin = file.read(8)
    long = not implicit and begin[:2] in (b"OB", b"OW", b"OF", b"OD", b"UN")
    length = int.from_bytes(begin[4:8] if long else begin[2:4] if not implicit else begin[:4], _order(little))
    return file.tell() - (0 if long else 4), length


def _order(little: bool | None) -> Literal["little", "big"]:
    return "little" if little else "big"


def _check_length(said: Dataset, length: int) -> None:
    """Raises ValueError where a file holds other pixels than its header says, to less than a row."""
    if said.file_meta.TransferSyntaxUID.is_compressed and said.file_meta.TransferSyntaxUID != _DEFLATED:
        return
    row = int(said.Columns) * int(said.BitsAllocated) // 8
    wanted = row * int(said.Rows) * int(said.get("NumberOfFrames") or 1)
    if not wanted <= length < wanted + max(row, 2) and int(said.BitsAllocated) > 1:
        raise ValueError(f"it holds {length:,} bytes of pixels, its header says {wanted:,}")


def complete(said: Dataset) -> None:
    """A file without a meta header says not how its pixels are stored; what pydicom read it by is true."""
    if "TransferSyntaxUID" not in said.file_meta:
        from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

        implicit, little = said.original_encoding
        said.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        )


def _valued(stored: Pixels, said: Dataset, frame: FrameRecord, index: Index) -> Pixels:
    """What stored numbers mean: by the table of the file where it has one, or by slope and intercept."""
    used = _used_bits(stored, said)
    if index.turned:
        used = np.subtract(sum(index.limits), used, dtype=np.float64)
    if said.get("ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut

        return apply_modality_lut(used, said)
    return _scaled(used, frame)


def _used_bits(stored: Pixels, said: Dataset) -> Pixels:
    """Without what overlays and vendors keep in the bits that are no part of a number."""
    allocated, used = int(said.BitsAllocated), int(said.get("BitsStored") or said.BitsAllocated)
    if (
        stored.dtype.kind not in "iu"
        or not 0 < used < allocated
        or said.file_meta.TransferSyntaxUID.is_compressed
    ):
        return stored
    above = allocated - 1 - int(said.get("HighBit") or used - 1)
    left = stored << np.array(above, stored.dtype)
    return left >> np.array(allocated - used, stored.dtype)


def _scaled(stored: Pixels, frame: FrameRecord) -> Pixels:
    if (frame.slope, frame.intercept) == (1.0, 0.0):
        return stored
    whole = frame.slope == 1 and frame.intercept.is_integer() and abs(frame.intercept) < 1 << 30
    if whole and stored.dtype.kind in "iu" and stored.dtype.itemsize < 4:
        return np.add(stored, int(frame.intercept), dtype=np.int32)
    return stored * np.float64(frame.slope) + np.float64(frame.intercept)
