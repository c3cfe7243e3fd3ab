"""A series as one small file, NAME.series.json: its files, their order, and where they lie.

It is a volume like any other to whatever takes the path of one, as a header of NRRD is with its voxels
elsewhere. What in it says who the patient is are the paths, the name that it was given, and `patient`, a
digest where names are.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from medfuse.core.errors import DataError
from medfuse.core.files import atomic, write_json
from medfuse.core.json_text import read_json, validated
from medfuse.core.remembered import cache_folder, make_private
from medfuse.core.text import listed
from medfuse.volumes.dicom.files import check_unpacks, holds_dicom, walked
from medfuse.volumes.dicom.instances import UNCOMPRESSED, Instance
from medfuse.volumes.dicom.place import Place
from medfuse.volumes.dicom.series import ALL, Scans, Series, find_series
from medfuse.volumes.dicom.stacks import refuse
from medfuse.volumes.endings import SERIES, ending, stem

_FORMAT = "medfuse DICOM series 3"
_KNOWN = (_FORMAT, "medfuse DICOM series 2")
"""Formats that are read; 2 says no patient."""
_FOUND = "found.json"
_REMEDY = "remove it, and give the folder of the scan again"
_MOST_BYTES = 1 << 27

Count = Annotated[int, Field(ge=1, le=1 << 20)]
Three = tuple[float, float, float]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Record):
    """A file, or a member of a zip file, as it was when the series was found."""

    file: str
    member: str | None
    bytes: int
    modified_ns: int

    @property
    def place(self) -> Place:
        return Place(self.file, self.member)


class FrameRecord(_Record):
    """A frame: its source, its number in it, and how its numbers become values."""

    source: int
    number: int
    uid: str
    slope: float
    intercept: float


class PlaneRecord(_Record):
    """A slice of the volume, of frames with weights, moved by so many pixels."""

    of: tuple[tuple[int, float], ...]
    shift: tuple[float, float]


class Index(_Record):
    """What the file says. `affine`: rows of (i, j, k) → RAS+ mm. `says`: tags, none of them personal.

    `limits`: the least and the largest number that may be stored. `turned`: whether white is least, and is to
    be the largest. Of a series that is no volume it has `faults`, which are told when it is read. patient:
    whose it is, by PatientID; empty where that is not said.
    """

    format: str
    name: str
    says: dict[str, str]
    class_uid: str
    shape: tuple[Count, Count, Count]
    affine: tuple[tuple[float, ...], ...]
    size: tuple[Count, Count]
    syntaxes: tuple[str, ...]
    photometric: str
    bits: tuple[int, int, int]
    limits: tuple[int, int]
    table: bool
    turned: bool
    spaced: bool
    units: str
    sources: tuple[Source, ...]
    frames: tuple[FrameRecord, ...]
    planes: tuple[PlaneRecord, ...] | None
    notes: tuple[str, ...]
    beside: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    patient: str = ""

    def plane(self, k: int) -> PlaneRecord:
        return self.planes[k] if self.planes else PlaneRecord(of=((k, 1.0),), shift=(0.0, 0.0))


_SAID = (
    "Modality",
    "SeriesDescription",
    "SeriesNumber",
    "BodyPartExamined",
    "Manufacturer",
    "ConvolutionKernel",
)


def index_of(series: Series) -> Index:
    """Raises DataError where the series is no volume."""
    where = f"{series.instance.place}: series {series.name}"
    one, stack = series.instance, series.stack
    if one.samples != 1 or not one.photometric.startswith("MONOCHROME"):
        raise DataError(
            f"{where}: its pixels are colours ({one.photometric}); medfuse reads those of pictures alone"
        )
    refuse(where, stack)
    if series.unread:
        raise DataError(*_lost_slices(series))
    if len(kinds := {i.photometric for i in series.instances}) > 1:
        raise DataError(f"{where}: some of its files are {listed(sorted(kinds))}; part them")
    if len({i.table or "RescaleIntercept" in i.says for i in series.instances}) > 1:
        raise DataError(
            f"{where}: some of its files say no RescaleIntercept, and others do; mend their headers"
        )
    if any(frame.slope == 0 for frame in stack.frames):
        raise DataError(f"{where}: a rescale slope of 0 makes all values one; mend its header")
    places = {frame.place: None for frame in stack.frames}
    number = {place: n for n, place in enumerate(places)}
    plain = all(plane.of == ((k, 1.0),) and plane.shift == (0, 0) for k, plane in enumerate(stack.planes))
    ends = [end for instance in series.instances for end in _limits(instance)]
    return Index(
        format=_FORMAT,
        name=series.name,
        says={key: one.says[key] for key in _SAID if one.says.get(key)},
        class_uid=stack.frames[0].class_uid,
        shape=stack.shape,
        affine=tuple(tuple(float(x) for x in row) for row in stack.affine[:3]),
        size=stack.frames[0].shape,
        syntaxes=tuple(sorted({i.syntax for i in series.instances})),
        photometric=one.photometric,
        bits=max(i.bits for i in series.instances),
        limits=(min(ends), max(ends)),
        table=any(i.table for i in series.instances),
        turned=one.photometric == "MONOCHROME1" and stack.frames[0].flat,
        spaced=stack.frames[0].pixel_mm is not None,
        units=one.units,
        sources=tuple(source_of(place) for place in places),
        frames=tuple(
            FrameRecord(
                source=number[f.place], number=f.number, uid=f.uid, slope=f.slope, intercept=f.intercept
            )
            for f in stack.frames
        ),
        planes=None
        if plain
        else tuple(PlaneRecord(of=plane.of, shift=plane.shift) for plane in stack.planes),
        notes=(*series.notes, *_notes(series)),
        patient=series.patient,
    )


def _lost_slices(series: Series) -> list[str]:
    """Lines about files that cannot be read: nobody would miss the first and the last slices of a series."""
    lines = [
        f"{one.place}: {one.why}, and may be a slice of series {series.name}; {one.remedy}, or move it away "
        "where it is none"
        for one in series.unread
    ]
    more = f"series {series.name}: {len(lines) - 2} more files that may be slices of it cannot be read"
    return lines if len(lines) <= 3 else [*lines[:2], f"{series.instance.place}: {more}"]


def _limits(instance: Instance) -> tuple[int, int]:
    """What a file's pixels may hold; decoders of compressed ones may give more than the bits that it says."""
    allocated, used, _ = instance.bits
    bits = allocated if instance.syntax not in UNCOMPRESSED else used
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if instance.signed else (0, (1 << bits) - 1)


def _notes(series: Series) -> list[str]:
    one = series.instance
    notes = []
    if one.photometric == "MONOCHROME1" and series.stack.frames[0].flat:
        notes.append("MONOCHROME1 (white is least): values are turned over, so that it looks like others")
    elif one.photometric == "MONOCHROME1":
        notes.append("MONOCHROME1 (white is least): values are as stored, not turned over")
    if one.says.get("Modality") == "CT" and "RescaleIntercept" not in one.says and not one.table:
        notes.append("CT that says no RescaleIntercept: values are as stored, perhaps not in HU")
    scales = {(frame.slope, frame.intercept) for frame in series.stack.frames}
    if one.says.get("Modality") == "CT" and len(scales) > 1:
        notes.append(f"CT whose slices have {len(scales)} kinds of slope and intercept: each has its own")
    if one.says.get("Modality") == "PT":
        notes.append(f"PET in {one.units or 'units that it does not say'}")
    return notes


def source_of(place: Place) -> Source:
    said = os.stat(place.file)
    return Source(file=place.file, member=place.member, bytes=said.st_size, modified_ns=said.st_mtime_ns)


def write_index(series: Series, folder: Path, *, beside: tuple[str, ...] = ()) -> Path:
    """`folder`/NAME.series.json, as it was where nothing has changed. Raises OutputError.

    A series that is no volume has one too, so that it fails when it is read, and others go on.
    """
    try:
        index = index_of(series)
    except DataError as error:
        index = _without_voxels(series, error)
    text = index.model_copy(update={"beside": beside}).model_dump_json().encode()
    path = folder / f"{series.name}{SERIES}"
    if not (path.is_file() and path.read_bytes() == text):
        make_private(folder)
        with atomic(path) as temporary:
            temporary.write_bytes(text)
    return path


def read_index(path: Path) -> Index:
    """Raises DataError."""
    content = read_json(path, raises=DataError, remedy=_REMEDY, most_bytes=_MOST_BYTES)
    if not isinstance(content, dict) or content.get("format") not in _KNOWN:
        raise DataError(f"{path}: is no series that medfuse wrote; {_REMEDY}")
    index = validated(Index, content, str(path), raises=DataError, remedy=_REMEDY)
    if index.faults:
        return index
    fit = len(index.affine) == 3 and all(len(row) == 4 and np.isfinite(row).all() for row in index.affine)
    count = len(index.planes) if index.planes else len(index.frames)
    known = all(0 <= frame.source < len(index.sources) for frame in index.frames) and all(
        0 <= n < len(index.frames) and min(plane.shift) >= 0
        for plane in index.planes or ()
        for n, _ in plane.of
    )
    if not fit or count != index.shape[2] or not known:
        raise DataError(f"{path}: does not fit together; {_REMEDY}")
    return index


def modality_of(path: Path) -> str:
    """What DICOM says it is, such as CT; nothing of other formats. Raises DataError."""
    return read_index(path).says.get("Modality", "") if ending(path) == SERIES else ""


def patient_of(path: Path) -> str:
    """Whose scan DICOM says it is; nothing where it does not, and of other formats. Raises DataError."""
    return read_index(path).patient if ending(path) == SERIES else ""


@contextmanager
def members() -> Iterator[Callable[[Source], bytes]]:
    """Reads members of zip files, each of which is opened once. The reader raises DataError."""
    held: dict[str, zipfile.ZipFile] = {}
    with ExitStack() as stack:

        def read(source: Source) -> bytes:
            path = Path(source.file)
            try:
                if source.file not in held:
                    held[source.file] = stack.enter_context(zipfile.ZipFile(path))
                member = held[source.file].getinfo(source.member or "")
                check_unpacks(path, member)
                return held[source.file].read(member)
            except DataError:
                raise
            except Exception as error:  # zipfile and what decompresses raise what they meet
                raise DataError(
                    f"{source.place}: cannot be read ({error}); copy it again from its source"
                ) from error

        yield read


def index_folder(root: Path, scans: Scans = ALL) -> Path:
    """Where series of a place are kept: in the user's cache, one folder for each place and choice."""
    digest = hashlib.sha256(repr((str(root.resolve()), scans)).encode()).hexdigest()[:16]
    return cache_folder() / "series" / digest


def _without_voxels(series: Series, error: DataError) -> Index:
    return Index(
        format=_FORMAT,
        name=series.name,
        says={},
        class_uid="",
        shape=(1, 1, 1),
        affine=tuple(tuple(float(x) for x in row) for row in np.eye(4)[:3]),
        size=(1, 1),
        syntaxes=(),
        photometric="",
        bits=(0, 0, 0),
        limits=(0, 0),
        table=False,
        turned=False,
        spaced=True,
        units="",
        sources=tuple(source_of(place) for place in {f.place: None for f in series.stack.frames}),
        frames=(),
        planes=None,
        notes=series.notes,
        faults=tuple(error.lines),
        patient=series.patient,
    )


def index_all(path: Path, scans: Scans = ALL) -> list[Path]:
    """A file for each series in `path`. What is said of files that make none is noted in the first.

    Headers are read once: while no file changes, the same series are there. Raises DataError for none.
    """
    folder = index_folder(path, scans)
    state = _state(path)
    if kept := _kept(folder, state):
        return kept
    found = find_series(path, scans)
    if not found.series:
        which = f" that say {' and '.join(scans.wanted)}" if scans.wanted else ""
        raise DataError(
            *found.notes,
            f"{path}: holds DICOM files, but no images{which}; `medfuse series {path}` lists what there is",
        )
    made = [
        write_index(series, folder, beside=() if n else found.notes) for n, series in enumerate(found.series)
    ]
    write_json(folder / _FOUND, {"state": state, "series": [file.name for file in made]})
    return made


def _state(path: Path) -> str:
    """A digest of every file that is there: its path, its size, and when it was changed."""
    digest = hashlib.sha256(_FORMAT.encode())
    inside = path.parent if path.name.upper().startswith("DICOMDIR") else path
    for file in walked(inside, []) if inside.is_dir() else [inside]:
        try:
            said = os.stat(file)
            facts = (str(file), said.st_size, said.st_mtime_ns)
        except OSError as error:  # such as a link that leads nowhere, which may be a slice
            facts = (str(file), -1, error.errno or 0)
        digest.update(repr(facts).encode(errors="replace"))
    return digest.hexdigest()


def _kept(folder: Path, state: str) -> list[Path]:
    """The series that were found when files were so; none where they were others."""
    try:
        said = json.loads((folder / _FOUND).read_bytes())
        files = [folder / name for name in said["series"]] if said["state"] == state else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return files if all(file.is_file() for file in files) else []


def as_volume_file(path: Path, scans: Scans = ALL) -> Path:
    """A path that volumes are read from: of a folder, a zip file or a file of one DICOM series its index.

    Raises DataError where there are none or several. Other paths are what they are.
    """
    if ending(path) or not path.exists() or not holds_dicom(path):
        return path
    paths = index_all(path, scans)
    if len(paths) != 1:
        names = listed([stem(file) for file in paths], 6)
        raise DataError(
            f"{path}: holds {len(paths)} series{f' ({names})' if names else ''}, where one is wanted; give "
            "the folder of one"
        )
    return paths[0]
