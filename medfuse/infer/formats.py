"""The formats that label maps are written in: a row for each, and the function that writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from medfuse.api import Case
from medfuse.core.errors import DataError, MedfuseError, did_you_mean
from medfuse.core.geometry import Geometry
from medfuse.core.label_table import LabelEntry
from medfuse.infer.cases import output_name
from medfuse.volumes.dicom.about import About
from medfuse.volumes.dicom.index import Index, read_index
from medfuse.volumes.endings import SERIES, ending
from medfuse.volumes.slabs import Slabs, Whole
from medfuse.volumes.write import open_volume

if TYPE_CHECKING:
    from medfuse.volumes.dicom.seg import SegKind

Labels = npt.NDArray[Any]
Write = Callable[[Path, Labels, Index, "LabelFiles"], dict[str, Any]]
"""Writes a label map (i, j, k) of a series; returns what the manifest is to say of it."""


@dataclass(frozen=True)
class Format:
    """`write`: of one that says of which DICOM series it is, and takes the whole label map.

    `check` raises DataError where a package is missing that it needs. `copies`: how many label maps take what
    is in memory while it is written, at most.
    """

    ending: str
    write: Write | None = None
    check: Callable[[], None] = lambda: None
    copies: Callable[[LabelFiles], int] = lambda _: 0


def _dicom_seg(path: Path, labels: Labels, index: Index, how: LabelFiles) -> dict[str, Any]:
    from medfuse.volumes.dicom.seg import write_seg

    return write_seg(path, labels, index, how.entries, how.about, kind=how.seg_type)


def _seg_copies(how: LabelFiles) -> int:
    """One that waits and some for its file; of binary ones a bit for each label, twice; of regions masks."""
    count = len(how.entries)
    if any(entry.members != (entry.value,) for entry in how.entries):
        return 6 + 3 * count
    return 6 + ceil(count / 4) if how.seg_type == "binary" else 5


def _rtstruct(path: Path, labels: Labels, index: Index, how: LabelFiles) -> dict[str, Any]:
    from medfuse.volumes.dicom.rtstruct import write_rtstruct

    return write_rtstruct(path, labels, index, how.entries, how.about)


def _highdicom() -> None:
    from medfuse.volumes.dicom.seg import check_installed

    check_installed()


FORMATS = {
    "nifti": Format(".nii.gz"),
    "nrrd": Format(".nrrd", copies=lambda _: 2),
    "dicom_seg": Format(".dcm", _dicom_seg, _highdicom, copies=_seg_copies),
    "rtstruct": Format(".rtstruct.dcm", _rtstruct, copies=lambda _: 5),
}


def formats_of(given: str | Iterable[str]) -> tuple[str, ...]:
    """The names in `nifti,dicom_seg` or several such texts, each once. Raises MedfuseError for others."""
    texts = [given] if isinstance(given, str) else given
    words = [word.strip().lower() for text in texts for word in text.split(",")]
    if odd := [word for word in words if word not in FORMATS]:
        raise MedfuseError(
            f"--format {odd[0]!r}: is no format of label maps{did_you_mean(odd[0], FORMATS)}; choose of "
            f"{', '.join(FORMATS)}"
        )
    return tuple(dict.fromkeys(words))


@dataclass(frozen=True)
class LabelFiles:
    """How label maps are written: in `formats`, or where there are none in that of the image."""

    formats: tuple[str, ...] = ()
    seg_type: SegKind = "labelmap"
    entries: tuple[LabelEntry, ...] = ()
    about: About = field(default_factory=About)

    def check(self) -> None:
        """Raises DataError where a package is missing that a format needs, and for a kind of none of them."""
        if self.seg_type != "labelmap" and "dicom_seg" not in self.formats:
            raise DataError(
                f"--seg-type {self.seg_type}: is a kind of --format dicom_seg; add that, or leave it out"
            )
        for name in self.formats:
            FORMATS[name].check()

    def names(self, case: Case) -> list[str]:
        """The files of a case."""
        return [case.name + FORMATS[name].ending for name in self.formats] or [output_name(case)]

    def refusal(self, case: Case) -> str:
        """Why a case cannot be written so; empty where it can be."""
        image = case.images[0]
        wanting = [name for name in self.formats if FORMATS[name].write]
        if not wanting or ending(image) == SERIES:
            return ""
        return (
            f"{image}: is no DICOM series, which --format {wanting[0]} says its labels of; give the folder "
            "of the series, or choose --format nifti"
        )

    def facts(self) -> dict[str, Any]:
        """What makes files of the same name others."""
        binary = "dicom_seg" in self.formats and self.seg_type != "labelmap"
        return {"seg_type": self.seg_type} if binary else {}

    def bytes(self, shape: Sequence[int], itemsize: int) -> int:
        """What whole label maps take while they wait, or are written one after another."""
        copies = [FORMATS[name].copies(self) for name in self.formats]
        return prod(shape) * itemsize * max(copies, default=0)


@dataclass
class _Every:
    """Slabs that are written to several volumes."""

    volumes: Sequence[Slabs]
    said: dict[str, Any] = field(default_factory=dict)

    def write(self, axis: int, start: int, part: Labels) -> None:
        for volume in self.volumes:
            volume.write(axis, start, part)


@contextmanager
def open_labels(
    folder: Path, case: Case, how: LabelFiles, geometry: Geometry, dtype: npt.DTypeLike, like: Path
) -> Iterator[_Every]:
    """The label map of a case in all formats that are wanted, part by part; files are there at the end.

    `said` is then what the manifest is to say of them, by format.
    """
    paths = [folder / name for name in how.names(case)]
    whole = [(name, path) for name, path in zip(how.formats, paths) if FORMATS[name].write]
    others = [path for path in paths if path not in dict(whole).values()]
    with ExitStack() as opened:
        volumes: list[Slabs] = [
            opened.enter_context(
                open_volume(path, geometry.shape, dtype, like=like, geometry=geometry, entries=how.entries)
            )
            for path in others
        ]
        kept = Whole(geometry.shape, dtype) if whole else None
        every = _Every([*volumes, *([kept] if kept else [])])
        yield every
    for name, path in whole:
        write = FORMATS[name].write
        assert kept is not None
        assert write is not None
        every.said[name] = write(path, kept.voxels, _index_of(like), how) or {}


def _index_of(image: Path) -> Index:
    if ending(image) != SERIES:
        raise DataError(f"{image}: is no DICOM series")
    return read_index(image)
