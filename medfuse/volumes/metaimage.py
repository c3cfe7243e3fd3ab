"""MetaImage, in one file (.mha) or two (.mhd): what its header says."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError
from medfuse.volumes import headers
from medfuse.volumes.faults import broken
from medfuse.volumes.headers import Fields, Grid
from medfuse.volumes.inflate import Encoding, Piece
from medfuse.volumes.stored import Stored
from medfuse.volumes.volume import checked_geometry

_TYPES = {
    "met_char": "i1", "met_uchar": "u1", "met_short": "i2", "met_ushort": "u2", "met_int": "i4",
    "met_uint": "u4", "met_long": "i4", "met_ulong": "u4", "met_long_long": "i8", "met_ulong_long": "u8",
    "met_float": "f4", "met_double": "f8",
}  # fmt: skip
_TYPES |= {f"{name}_array": code for name, code in _TYPES.items()}
_TRUTH = {"true": True, "false": False, "1": True, "0": False, "t": True, "f": False}
_MM = {"mm": 1.0, "um": 1e-3, "cm": 10.0, "?": 1.0}


def stored(path: Path) -> Stored:
    """Raises DataError."""
    fields = _fields(path)
    sizes = _sizes(fields)
    geometry = checked_geometry(path, sizes, _grid(fields, len(sizes)).affine())
    inner = fields.whole("elementnumberofchannels", least=1, most=2**20, otherwise=1)
    later = prod(sizes[3:])
    if inner > 1 and later > 1:
        raise DataError(f"{path}: has {inner} channels in each of {later} volumes; store one kind of them")
    encoding: Encoding = "text"
    if _truth(fields, "binarydata", otherwise="true"):
        encoding = "zlib" if _truth(fields, "compresseddata", otherwise="false") else "raw"
    dtype = _dtype(fields)
    voxel_bytes = prod(sizes) * inner * dtype.itemsize
    return Stored(
        path,
        geometry,
        inner * later,
        dtype,
        _data(fields, encoding, voxel_bytes, sizes),
        encoding,
        channel_axis=0 if inner > 1 else 3,
    )


def grid(path: Path) -> Grid:
    fields = _fields(path)
    return _grid(fields, len(_sizes(fields)))


def _fields(path: Path) -> Fields:
    begin = headers.first_bytes(path)
    values: dict[str, str] = {}
    at = 0
    while (stop := begin.find(b"\n", at)) >= 0 or at < len(begin):
        stop = len(begin) if stop < 0 else stop
        line = begin[at:stop].decode("utf-8", "replace").strip()
        at = stop + 1
        if not line:
            continue
        name, sign, value = (*re.split("([=:])", line, maxsplit=1), "", "")[:3]
        name = name.strip().lower()
        if not sign or name in values or not re.fullmatch(r"[ -~]+", name):
            break
        values[name] = value.strip()
        if name == "elementdatafile":
            if value.strip().upper().split()[:1] == ["LIST"]:
                values["files"] = begin[at:].decode("utf-8", "replace")
            return Fields(path, values, at)
    reason = "it has no lines `name = value` that end with ElementDataFile"
    raise broken(path, ValueError(reason))


def _sizes(fields: Fields) -> tuple[int, ...]:
    if (kind := fields.text("objecttype")) is not None and kind.lower() != "image":
        fields.fault("objecttype", "Image")
    n = fields.whole("ndims", least=1, most=headers.MOST_AXES)
    return fields.wholes("dimsize", count=n, least=1, most=2**40)


def _grid(fields: Fields, axes: int) -> Grid:
    spacing = fields.reals("elementspacing", "elementsize", count=axes) or (1.0,) * axes
    origin = fields.reals("offset", "position", "origin", count=axes) or (0.0,) * axes
    turn = fields.reals("transformmatrix", "rotation", "orientation", count=axes**2)
    rows = np.eye(axes) if turn is None else np.array(turn).reshape(axes, axes)
    n = min(axes, 3)
    direction: npt.NDArray[np.float64] = rows.T[:n, :n]  # a row is where an axis points to
    mm = _MM[fields.choice("distanceunits", of=_MM, otherwise="mm")]
    steps = np.array(spacing[:n]) * mm
    return Grid(np.abs(steps), np.array(origin[:n]) * mm, direction * np.where(steps < 0, -1.0, 1.0))


def _truth(fields: Fields, name: str, *, otherwise: str) -> bool:
    return _TRUTH[fields.choice(name, of=_TRUTH, otherwise=otherwise)]


def _dtype(fields: Fields) -> np.dtype[np.generic]:
    dtype = np.dtype(_TYPES[fields.choice("elementtype", of=_TYPES)])
    name = fields.name_of("elementbyteordermsb", "binarydatabyteordermsb")
    return dtype.newbyteorder(">" if _truth(fields, name, otherwise="false") else "<")


def _data(fields: Fields, encoding: Encoding, voxel_bytes: int, sizes: tuple[int, ...]) -> tuple[Piece, ...]:
    said = fields.values["elementdatafile"]
    skip = fields.whole("headersize", least=-1, most=2**40, otherwise=0)
    if said.lower() == "local":
        return (Piece(fields.path, fields.end),)
    if said.upper().split()[:1] == ["LIST"]:
        names = [line.strip() for line in fields.values["files"].splitlines() if line.strip()]
    elif "%" in said:
        names = headers.numbered(fields, "elementdatafile", said)
    else:
        names = [said]
    if not names or prod(sizes) % len(names):
        fields.fault("elementdatafile", "as many files as share the voxels evenly")
    compressed = encoding != "raw"
    return headers.pieces(
        fields,
        "elementdatafile",
        names,
        voxel_bytes,
        skip=skip if not compressed else 0,
        compressed=compressed,
    )
