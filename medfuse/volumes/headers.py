"""What the text headers of NRRD and MetaImage share: fields within limits, and files that hold the voxels.

Nothing of a header reaches another library: ITK's readers end the process on some of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError
from medfuse.volumes.faults import broken, check_is_file
from medfuse.volumes.inflate import Piece
from medfuse.volumes.volume import with_third_axis

MOST_BYTES = 1 << 22
"""No header is longer: those of thousands of gradients or segments have some hundred thousand bytes."""
MOST_AXES = 16
MOST_FILES = 100_000
LPS = np.array([-1.0, -1.0, 1.0])  # ITK's patient axes ↔ NIfTI's


@dataclass(frozen=True, eq=False)
class Grid:
    """Spacing and origin in mm and direction of two or three axes, towards the patient's left, back and head,
    to the last bit as the file says them.
    """

    spacing: npt.NDArray[np.float64]
    origin: npt.NDArray[np.float64]
    direction: npt.NDArray[np.float64]

    @classmethod
    def of(cls, axes: npt.NDArray[np.float64], origin: npt.NDArray[np.float64], mm: float = 1.0) -> Grid:
        """Of vectors of a step along each axis, as columns, in units of `mm`."""
        with np.errstate(all="ignore"):
            spacing = np.linalg.norm(axes, axis=0)
            return cls(spacing * mm, origin * mm, axes / spacing)

    @classmethod
    def at(cls, affine: npt.NDArray[np.float64]) -> Grid:
        """Of an affine towards RAS+."""
        turned = affine[:3] * LPS[:, None]
        return cls.of(turned[:, :3], turned[:, 3])

    def affine(self) -> npt.NDArray[np.float64]:
        """Towards RAS+, in mm."""
        n = len(self.spacing)
        made = np.eye(4)
        made[:3, :3] = 0
        with np.errstate(all="ignore"):
            made[:n, :n] = self.direction * self.spacing
        made[:n, 3] = self.origin
        made[:3] *= LPS[:, None]
        return with_third_axis(made) if n == 2 else made


@dataclass(frozen=True)
class Fields:
    """The fields of a header by their names in small letters, and where the header ends."""

    path: Path
    values: Mapping[str, str]
    end: int

    def fault(self, name: str, wanted: str) -> NoReturn:
        """Raises DataError of one field, in words."""
        said = self.values.get(name)
        shown = f"says {name}: {said[:60]!r}" if said is not None else f"does not say {name}"
        raise DataError(f"{self.path}: its header {shown}; wanted {wanted}")

    def text(self, *names: str) -> str | None:
        """The first of the fields that is there."""
        return next((self.values[name] for name in names if name in self.values), None)

    def name_of(self, *names: str) -> str:
        return next((name for name in names if name in self.values), names[0])

    def whole(self, *names: str, least: int, most: int, otherwise: int | None = None) -> int:
        found = self.wholes(*names, count=1, least=least, most=most) if self.text(*names) else None
        if found is None and otherwise is None:
            self.fault(names[0], f"a whole number from {least} to {most}")
        return found[0] if found else int(otherwise or 0)

    def wholes(self, *names: str, count: int, least: int, most: int) -> tuple[int, ...]:
        name = self.name_of(*names)
        words = (self.text(*names) or "").split()
        fit = all(re.fullmatch(r"-?[0-9]{1,15}", word) and least <= int(word) <= most for word in words)
        if len(words) != count or not fit:
            self.fault(name, f"{count} whole number{'s' * (count > 1)} from {least} to {most}")
        return tuple(map(int, words))

    def reals(self, *names: str, count: int) -> tuple[float, ...] | None:
        """None where there is no such field."""
        if (said := self.text(*names)) is None:
            return None
        if (found := real_numbers(said)) is None or len(found) != count:
            self.fault(self.name_of(*names), f"{count} number{'s' * (count > 1)}")
        return found

    def choice(self, *names: str, of: Mapping[str, object], otherwise: str | None = None) -> str:
        said = self.text(*names) or otherwise
        if said is None or said.lower() not in of:
            self.fault(self.name_of(*names), f"one of {', '.join(of)}")
        return said.lower()


def real_numbers(text: str) -> tuple[float, ...] | None:
    """Finite numbers between spaces or commas; None where one is none."""
    words = text.replace(",", " ").split()
    if not all(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", word, re.ASCII) for word in words):
        return None
    found = tuple(float(word) for word in words)
    return found if all(map(isfinite, found)) else None


def first_bytes(path: Path) -> bytes:
    """As much of a file as a header may take. Raises DataError."""
    check_is_file(path)
    try:
        with open(path, "rb") as file:
            return file.read(MOST_BYTES)
    except OSError as error:
        raise broken(path, error) from error


def beside(fields: Fields, field: str, name: str) -> Path:
    """The file `name`, which a header may have beside it or below, and nowhere else. Raises DataError."""
    folder = fields.path.parent
    if not name or "\0" in name:
        fields.fault(field, "the name of a file")
    path = Path(os.path.normpath(folder / name))
    inside = path.is_relative_to(os.path.normpath(folder)) and path != Path(os.path.normpath(folder))
    if not inside or not path.parent.resolve().is_relative_to(folder.resolve()):
        raise DataError(
            f"{fields.path}: its voxels are said to lie in {name[:200]!r}, outside the header's folder; copy "
            "that file beside the header, and name it there"
        )
    check_is_file(path)
    if not path.exists():
        raise DataError(
            f"{fields.path}: its voxels are in {path}, which is not there; copy it beside the header"
        )
    return path


def numbered(fields: Fields, field: str, pattern: str) -> list[str]:
    """The names that a pattern such as `slice%03d.raw 1 20 1` stands for."""
    match = re.fullmatch(
        r"([^%]*)%(0?)(\d{0,2})d([^%]*?)\s+(\d{1,9})\s+(\d{1,9})(?:\s+(\d{1,9}))?(?:\s+\d)?",
        pattern,
        re.ASCII,
    )
    if match is None:
        fields.fault(field, "a file, or a pattern with one whole number such as slice%03d.raw 1 20 1")
    before, zero, width, after, first, last, step = match.groups()
    numbers = range(int(first), int(last) + 1, max(1, int(step or 1)))
    if not 0 < len(numbers) <= MOST_FILES:
        fields.fault(field, f"1 to {MOST_FILES} files")
    return [f"{before}{str(n).rjust(int(width or 0), zero or ' ')}{after}" for n in numbers]


def pieces(
    fields: Fields, field: str, names: Sequence[str], voxel_bytes: int, *, skip: int, compressed: bool
) -> tuple[Piece, ...]:
    """Files that hold equal parts of the voxels; a `skip` of -1 means that they stand at each file's end.

    Raises DataError where a file of several is longer or shorter than its part.
    """
    if len(names) > MOST_FILES:
        fields.fault(field, f"1 to {MOST_FILES} files")
    part, rest = divmod(voxel_bytes, len(names))
    if rest:
        fields.fault(field, "as many files as share the voxels evenly")
    made = []
    for name in names:
        path = beside(fields, field, name)
        try:
            size = path.stat().st_size
        except OSError as error:
            raise broken(path, error) from error
        offset = size - part if skip < 0 else skip
        held = size - max(0, offset)
        if not compressed and (held < part or (len(names) > 1 and held > part)):
            fault = "is truncated or damaged" if held < part else "is longer than its header says"
            raise DataError(
                f"{path}: {fault}; copy it again from its source (it has {max(0, held)} of {part} bytes that "
                f"{fields.path.name} says)"
            )
        made.append(Piece(path, max(0, offset)))
    return tuple(made)
