"""NRRD, attached (.nrrd) or detached (.nhdr): what its header says.

The format: https://teem.sourceforge.net/nrrd/format.html
"""

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
from medfuse.volumes.nrrd_segments import said_segments
from medfuse.volumes.stored import Stored
from medfuse.volumes.volume import checked_geometry

_TYPES = {
    name: code
    for code, names in {
        "i1": "signed char, int8, int8_t",
        "u1": "uchar, unsigned char, uint8, uint8_t",
        "i2": "short, short int, signed short, signed short int, int16, int16_t",
        "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
        "i4": "int, signed int, int32, int32_t",
        "u4": "uint, unsigned int, uint32, uint32_t",
        "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
        "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
        "f4": "float",
        "f8": "double",
    }.items()
    for name in names.split(", ")
}
_ENCODINGS: dict[str, Encoding] = {
    "raw": "raw", "gzip": "gzip", "gz": "gzip", "zlib": "zlib", "bzip2": "bzip2", "bz2": "bzip2",
    "ascii": "text", "text": "text", "txt": "text",
}  # fmt: skip
_TOWARDS_LPS = {
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
}  # fmt: skip
_SPATIAL = {"domain", "space", "time", "???", "none"}
_MM = {
    "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "": 1.0, "???": 1.0,
    "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3,
    "micrometers": 1e-3, "nm": 1e-6, "cm": 10.0, "m": 1000.0, "meter": 1000.0, "meters": 1000.0,
}  # fmt: skip


def stored(path: Path) -> Stored:
    """Raises DataError."""
    fields = _fields(path)
    axes = _Axes(fields)
    encoding = _ENCODINGS[fields.choice("encoding", of=_ENCODINGS)]
    dtype = _dtype(fields, encoding)
    voxel_bytes = prod(axes.sizes) * dtype.itemsize
    data, skip = _data(fields, encoding, voxel_bytes, axes.sizes)
    shape = tuple(axes.sizes[a] for a in axes.spatial)
    return Stored(
        path,
        checked_geometry(path, shape, axes.grid().affine()),
        prod(axes.sizes[a] for a in axes.others),
        dtype,
        data,
        encoding,
        skip,
        channel_axis=axes.channel_axis,
    )


def grid(path: Path) -> Grid:
    return _Axes(_fields(path)).grid()


def segments_of(path: Path) -> dict[str, tuple[int, str]]:
    """Name → value and colour of the labels that its header tells of. Raises DataError."""
    text = headers.first_bytes(path)[: _fields(path).end].decode("utf-8", "replace")
    pairs = (line.rstrip("\r").partition(":=") for line in text.split("\n") if ":=" in line)
    return said_segments({key: value for key, _, value in pairs})


def _fields(path: Path) -> Fields:
    begin = headers.first_bytes(path)
    if not re.match(rb"NRRD000[1-9]\r?\n", begin):
        raise broken(path, ValueError("it does not begin with NRRD000 and a number"))
    values: dict[str, str] = {}
    at = begin.index(b"\n") + 1
    listed: list[str] = []
    while at < len(begin):
        stop = begin.find(b"\n", at)
        if stop < 0 and len(begin) == headers.MOST_BYTES:
            break
        stop = len(begin) if stop < 0 else stop
        line = begin[at:stop].decode("utf-8", "replace").rstrip("\r")
        at = stop + 1
        if not line:
            return Fields(path, values, at)
        if "data file" in values and values["data file"].upper().startswith("LIST"):
            listed.append(line)
            values["files"] = "\n".join(listed)
        elif not line.startswith("#") and ":=" not in line.partition(": ")[0]:
            name, colon, value = line.partition(":")
            name = {"datafile": "data file", "centerings": "centers"}.get(name.lower(), name.lower())
            if not colon or name in values:
                raise DataError(
                    f"{path}: its header has the line {line[:60]!r}; wanted `field: value`, each field once"
                )
            values[name] = value.strip()
    if len(begin) == headers.MOST_BYTES:
        raise broken(path, ValueError(f"its header does not end within {headers.MOST_BYTES} bytes"))
    return Fields(path, values, len(begin))


class _Axes:
    """Which axis is what."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        n = fields.whole("dimension", least=1, most=headers.MOST_AXES)
        self.sizes = fields.wholes("sizes", count=n, least=1, most=2**40)
        self._directions = self._vectors(n)
        kinds = (fields.text("kinds") or "").split()
        if kinds and len(kinds) != n:
            fields.fault("kinds", f"{n} of them")
        others = [
            axis
            for axis in range(n)
            if (kinds and kinds[axis].lower() not in _SPATIAL)
            or (self._directions and self._directions[axis] is None)
        ]
        spatial = [axis for axis in range(n) if axis not in others]
        self.spatial, self.others = spatial[:3], sorted([*others, *spatial[3:]])
        if len(self.spatial) < 2 or sum(self.sizes[axis] > 1 for axis in self.others) > 1:
            raise DataError(
                f"{fields.path}: has {n} axes of sizes {self.sizes}; a volume has 3 in space, and perhaps "
                "one of channels"
            )

    @property
    def channel_axis(self) -> int:
        """Before how many of the three axes in space the channels stand."""
        channels = next((axis for axis in self.others if self.sizes[axis] > 1), None)
        before = sum(axis < channels for axis in self.spatial) if channels is not None else 3
        return 3 if before == len(self.spatial) else before

    def _mm(self) -> float:
        units = re.findall(r'"([^"]*)"', self._fields.text("space units") or "")
        known = {_MM.get(unit.strip().lower()) for unit in units[: len(self.spatial)]} or {1.0}
        if len(known) != 1 or None in known:
            self._fields.fault("space units", f"one of {', '.join(filter(None, _MM))}, the same for all axes")
        return next(iter(known)) or 1.0

    def grid(self) -> Grid:
        n = len(self.spatial)
        if self._directions is None:
            spacing = self._spacings()
            return Grid(spacing, self._minima(spacing), np.eye(n))
        sign = np.array(_TOWARDS_LPS.get(self._space(), (1, 1, 1)), float)[:, None]
        axes = np.array([self._directions[axis] for axis in self.spatial], float).T
        if len(axes) < n:
            self._fields.fault("space directions", f"vectors of {n} numbers")
        origin = headers.real_numbers((self._fields.text("space origin") or "").strip("() "))
        if origin is None or 0 < len(origin) < len(axes):
            self._fields.fault("space origin", f"a vector of {len(axes)} numbers")
        start = np.array(origin[: len(axes)] or [0.0] * len(axes))
        signs = sign[: len(axes)]
        return Grid.of((axes * signs)[:n], (start * signs[:, 0])[:n], self._mm())

    def _space(self) -> str:
        return (self._fields.text("space") or "").lower().removesuffix("-time")

    def _vectors(self, n: int) -> list[npt.NDArray[np.float64] | None] | None:
        """The vector of a step along each axis; None of one that is not in space."""
        if (said := self._fields.text("space directions")) is None:
            return None
        found: list[npt.NDArray[np.float64] | None] = []
        for word in re.findall(r"\([^()]*\)|[^\s()]+", said):
            numbers = headers.real_numbers(word.strip("()")) if word.startswith("(") else None
            if numbers is None and word.lower() != "none":
                self._fields.fault("space directions", f"{n} vectors of numbers, or none")
            found.append(None if numbers is None else np.array(numbers))
        lengths = {len(vector) for vector in found if vector is not None}
        if len(found) != n or len(lengths) != 1 or not lengths <= {2, 3, 4}:
            self._fields.fault("space directions", f"{n} vectors of equal length")
        return [vector[:3] if vector is not None else None for vector in found]

    def _spacings(self) -> npt.NDArray[np.float64]:
        words = (self._fields.text("spacings") or "").lower().split()
        if not words:
            return np.ones(len(self.spatial))
        numbers = headers.real_numbers(" ".join("1" if word == "nan" else word for word in words))
        if numbers is None or len(numbers) != len(self.sizes):
            self._fields.fault("spacings", f"{len(self.sizes)} numbers")
        return np.array([numbers[axis] for axis in self.spatial])

    def _minima(self, spacing: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        words = (self._fields.text("axis mins") or "").lower().split()
        numbers = headers.real_numbers(" ".join("0" if word == "nan" else word for word in words))
        if numbers is None or len(numbers) not in (0, len(self.sizes)):
            self._fields.fault("axis mins", f"{len(self.sizes)} numbers")
        if not numbers:
            return np.zeros(len(self.spatial))
        centers = (self._fields.text("centers") or "").lower().split()
        edges = np.array([centers[axis : axis + 1] != ["node"] for axis in self.spatial])
        return np.array([numbers[axis] for axis in self.spatial]) + edges * spacing / 2


def _dtype(fields: Fields, encoding: Encoding) -> np.dtype[np.generic]:
    dtype = np.dtype(_TYPES[fields.choice("type", of=_TYPES)])
    if dtype.itemsize == 1 or encoding == "text":
        return dtype
    orders = {"little": "<", "big": ">"}
    return dtype.newbyteorder("<" if orders[fields.choice("endian", of=orders)] == "<" else ">")


def _data(
    fields: Fields, encoding: Encoding, voxel_bytes: int, sizes: tuple[int, ...]
) -> tuple[tuple[Piece, ...], int]:
    """Where the voxels are, and how many bytes come before them once they are decompressed."""
    lines = fields.whole("line skip", "lineskip", least=0, most=10_000, otherwise=0)
    skip = fields.whole("byte skip", "byteskip", least=-1, most=2**40, otherwise=0)
    if skip < 0 and encoding != "raw":
        fields.fault("byte skip", "0 or more where voxels are compressed")
    before = skip if encoding == "raw" else 0
    said = fields.text("data file")
    if said is None:
        size = fields.path.stat().st_size
        start = _after_lines(fields.path, fields.end, lines)
        offset = size - voxel_bytes if skip < 0 else start + before
        return (Piece(fields.path, max(offset, start)),), skip - before if skip > 0 else 0
    if said.upper().startswith("LIST"):
        names = (fields.text("files") or "").splitlines()
    elif "%" in said:
        names = headers.numbered(fields, "data file", said)
    else:
        names = [said]
    if not names:
        fields.fault("data file", "the names of files, one a line")
    if len(names) > 1 and lines:
        fields.fault("line skip", "0 where voxels are in several files")
    if lines:
        before += _after_lines(headers.beside(fields, "data file", names[0]), 0, lines)
    found = headers.pieces(fields, "data file", names, voxel_bytes, skip=before, compressed=encoding != "raw")
    return found, max(0, skip) if encoding != "raw" else 0


def _after_lines(path: Path, start: int, lines: int) -> int:
    try:
        with open(path, "rb") as file:
            file.seek(start)
            for _ in range(lines):
                file.readline(headers.MOST_BYTES)
            return file.tell()
    except OSError as error:
        raise broken(path, error) from error
