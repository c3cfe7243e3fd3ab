"""PNG, TIFF and JPEG by Pillow: an image of one slice, i along its rows and j down its columns.

As in ITK, i leads to the patient's left and j to the back, so that viewers show the picture upright.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError, OutputError
from medfuse.core.files import atomic
from medfuse.core.geometry import Geometry
from medfuse.volumes.endings import ending
from medfuse.volumes.faults import broken, check_is_file, last_line
from medfuse.volumes.inflate import Damaged
from medfuse.volumes.volume import Slab, SlabReader

if TYPE_CHECKING:
    from PIL.Image import Image

_CHANNELS = {"1": 1, "L": 1, "I": 1, "I;16": 1, "I;16L": 1, "I;16B": 1, "F": 1, "RGB": 3, "P": 3}
_TRANSPARENT = {"LA": "L", "RGBA": "RGB", "PA": "P"}
_TYPES = {"I": np.int32, "I;16": np.uint16, "I;16L": np.uint16, "I;16B": np.uint16, "F": np.float32}
_UNSAID = (1, 72, 96)  # pixels per inch that programs write where they know of none
_MM = {
    "mm": 1.0, "cm": 10.0, "inch": 25.4, "micron": 1e-3, "um": 1e-3, "µm": 1e-3, "\\u00B5m": 1e-3, "nm": 1e-6,
}  # fmt: skip
_OFFSETS, _COUNTS, _COMPRESSION, _BITS, _UNIT, _TEXT = (273, 324), (279, 325), 259, 258, 296, 270
_DEFLATE = (8, 32946)


def slab_reader(path: Path, *, palette: bool = False) -> SlabReader:
    """Raises DataError. `palette`: the pixels of a picture with a palette are its numbers, no colours."""
    check_is_file(path)
    with _opened(path) as image:
        mode = _TRANSPARENT.get(image.mode, image.mode)
        channels = 1 if palette and mode == "P" else _CHANNELS.get(mode, 0)
        _check(path, image, channels)
        geometry = _geometry(image)
    dtype = np.dtype(_TYPES.get(mode, np.uint8))
    size = geometry.shape[0] * geometry.shape[1] * channels * (dtype.itemsize + 4)
    return SlabReader(
        path, geometry, channels, dtype, 2 * size, lambda: _slabs(path, channels, dtype, palette)
    )


def write(path: Path, array: npt.NDArray[Any], geometry: Geometry) -> None:
    """Pixels (i, j, 1) of whole numbers. Raises OutputError."""
    from PIL import Image

    if array.ndim != 3 or array.shape[2] != 1:
        raise OutputError(f"{path}: a picture has one slice, not {array.shape}; write .nii.gz")
    if array.dtype.kind not in "ub" or array.max(initial=0) > 65535:
        raise OutputError(f"{path}: holds values that a picture cannot ({array.dtype}); write .nii.gz")
    small = array.max(initial=0) < 256
    pixels = np.ascontiguousarray(array[:, :, 0].T.astype(np.uint8 if small else np.uint16))
    about: dict[str, Any] = {"compression": "tiff_adobe_deflate"} if ending(path) in (".tif", ".tiff") else {}
    if geometry.spaced:
        about["dpi"] = tuple(25.4 / mm for mm in geometry.spacing_mm[:2])
    with atomic(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="TIFF" if "compression" in about else "PNG", **about)


def _opened(path: Path) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path, formats=("PNG", "TIFF", "JPEG"))
    except Image.DecompressionBombError:
        raise DataError(f"{path}: has more pixels than are read of a picture; store it as .mha") from None
    except UnidentifiedImageError:
        raise broken(path, ValueError("it is no PNG, TIFF or JPEG")) from None
    except OSError as error:
        raise broken(path, error) from error
    except Exception as error:  # Pillow's parsers raise what they meet
        raise broken(path, error) from error


def _check(path: Path, image: Image, channels: int) -> None:
    """Raises DataError where pixels cannot be read as they are."""
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise DataError(f"{path}: holds {pages} pictures; store one in each file")
    if not channels:
        raise DataError(f"{path}: its pixels are of the kind {image.mode}; convert them to grey or RGB")
    if image.mode not in _TYPES and (bits := _bits(path, image)) > 8:
        raise DataError(
            f"{path}: has colours of {bits} bits, of which 8 would be read; store it as .mha or .nii.gz, or "
            "one channel per file"
        )


def _bits(path: Path, image: Image) -> int:
    """How many bits a number has in the file."""
    if image.format == "PNG":
        with open(path, "rb") as file:
            return file.read(25)[24]
    if image.format == "TIFF":
        said = _tags(image).get(_BITS, 8)
        return max(said) if isinstance(said, tuple) else int(said)
    return 8


def _tags(image: Image) -> Any:
    return getattr(image, "tag_v2", {})


def _geometry(image: Image) -> Geometry:
    mm = _spacing_mm(image)
    x, y = mm or (1.0, 1.0)
    return Geometry((*image.size, 1), np.diag([-x, -y, 1.0, 1.0]), spaced=mm is not None)


def _spacing_mm(image: Image) -> tuple[float, float] | None:
    """Of TIFF's resolution or PNG's pHYs; JPEG's is one of screens."""
    text = str(_tags(image).get(_TEXT, ""))
    if image.format == "TIFF" and text.startswith("ImageJ"):
        unit = re.search(r"^unit=(\S+)", text, re.MULTILINE)
        return _pixels_of(_MM.get(unit[1] if unit else ""), image.info.get("resolution"))
    without_unit = image.format == "TIFF" and _tags(image).get(_UNIT, 2) == 1
    if image.format == "JPEG" or without_unit:
        return None
    per_inch = image.info.get("dpi")
    if per_inch and all(map(_above_0, per_inch)) and {round(float(n)) for n in per_inch} <= {*_UNSAID}:
        return None
    return _pixels_of(25.4, per_inch)


def _pixels_of(mm: float | None, pixels: Any) -> tuple[float, float] | None:
    """The size of a pixel where there are so many in so many mm."""
    if not (mm and isinstance(pixels, tuple) and len(pixels) == 2 and all(map(_above_0, pixels))):
        return None
    return mm / float(pixels[0]), mm / float(pixels[1])


def _above_0(number: Any) -> bool:
    try:
        return 1e-9 < float(number) < 1e9
    except (ArithmeticError, ValueError, TypeError):
        return False


def _slabs(path: Path, channels: int, dtype: np.dtype[Any], palette: bool) -> Iterator[Slab]:
    try:
        _read_checksums(path)
        with _opened(path) as image:
            _check_strips(path, image)
            array = _pixels(path, image, palette)
    except DataError:
        raise
    except OSError as error:
        raise broken(path, error if error.errno else Damaged(last_line(error))) from error
    except Exception as error:  # Pillow's decoders raise what they meet
        raise broken(path, Damaged(last_line(error))) from error
    for channel in range(channels):
        plane = array if array.ndim == 2 else array[:, :, channel]
        yield channel, 0, np.asarray(plane.T[:, :, None], dtype)


def _pixels(path: Path, image: Image, palette: bool) -> npt.NDArray[Any]:
    """(rows, columns) or (rows, columns, 3)."""
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        solid = image.convert("RGBA").getchannel("A").getextrema() == (255, 255)
        if not solid and not palette:
            raise DataError(f"{path}: is transparent in places; store it without an alpha channel")
        image = image if image.mode not in _TRANSPARENT else image.convert(_TRANSPARENT[image.mode])
    if image.mode == "P" and not palette:
        image = image.convert("RGB")
    return np.asarray(image)


def _read_checksums(path: Path) -> None:
    """Of every part of a PNG. Raises Damaged."""
    with open(path, "rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            return
        name = b""
        while name != b"IEND":
            head = file.read(8)
            if len(head) < 8:
                raise Damaged("it ends too early")
            length, name = struct.unpack(">I4s", head)
            content = file.read(length)
            said = file.read(4)
            if len(said) < 4 or zlib.crc32(name + content) != struct.unpack(">I", said)[0]:
                raise Damaged(f"the checksum of its part {name.decode('latin-1')} is another")


def _check_strips(path: Path, image: Image) -> None:
    """Those of a TIFF lie in the file, and where they are compressed by zlib, their checksums fit."""
    if image.format != "TIFF":
        return
    tags = _tags(image)
    offsets, counts = (
        next((_tuple(tags[key]) for key in keys if key in tags), ()) for keys in (_OFFSETS, _COUNTS)
    )
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        for offset, count in zip(offsets, counts):
            if offset + count > size:
                raise Damaged("it ends too early")
            if tags.get(_COMPRESSION, 1) in _DEFLATE:
                _check_stream(file, offset, count)


def _check_stream(file: IO[bytes], offset: int, count: int) -> None:
    file.seek(offset)
    stream = zlib.decompressobj()
    data = file.read(count)
    while data and not stream.eof:
        stream.decompress(data, 1 << 20)
        data = stream.unconsumed_tail
    if not stream.eof:
        raise Damaged("it ends too early")


def _tuple(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)
