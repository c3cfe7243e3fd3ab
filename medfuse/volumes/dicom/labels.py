"""A SEG or an RTSTRUCT as one small file, NAME.labels.json: which segment is which value, on which grid.

It is a label map like any other to whatever takes the path of one, as the file of a series is an image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from medfuse.core.errors import DataError
from medfuse.core.files import write_text
from medfuse.core.geometry import Geometry
from medfuse.core.json_text import read_json, validated
from medfuse.core.labels import LabelValue, members
from medfuse.core.remembered import cache_folder, make_private
from medfuse.core.text import listed
from medfuse.volumes.dicom import segmentations, structures
from medfuse.volumes.dicom.files import is_dicom
from medfuse.volumes.dicom.index import Index, Source, index_of
from medfuse.volumes.dicom.pixels import check_unchanged
from medfuse.volumes.dicom.segments import (
    Kind,
    LabelObject,
    label_object,
    named_alike,
    reading,
    source_bytes,
)
from medfuse.volumes.dicom.series import find_series
from medfuse.volumes.dicom.spots import Slices
from medfuse.volumes.dicom.values import text_of
from medfuse.volumes.endings import LABELS, ending, stem
from medfuse.volumes.volume import SlabReader, checked_geometry, slabs_of

_FORMAT = "medfuse DICOM labels 1"
_REMEDY = "remove it, and give the SEG or RTSTRUCT again"
_MOST_BYTES = 1 << 24
MOST_VALUE = 2**32 - 1

Count = Annotated[int, Field(ge=1, le=1 << 20)]


class SegmentRecord(BaseModel):
    """A segment, and the value that it has in the label map."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    name: str
    value: Annotated[int, Field(ge=1, le=MOST_VALUE)]


class LabelIndex(BaseModel):
    """What the file says. `affine`: rows of (i, j, k) → RAS+ mm. order: values that may overlap, later ones
    over earlier ones. slices: of a SEG that lies on another grid, where its own are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str
    kind: Kind
    source: Source
    shape: tuple[Count, Count, Count]
    affine: tuple[tuple[float, ...], ...]
    segments: tuple[SegmentRecord, ...]
    order: tuple[int, ...]
    notes: tuple[str, ...]
    slices: Slices | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.source,)


def read_label_index(path: Path) -> LabelIndex:
    """Raises DataError."""
    content = read_json(path, raises=DataError, remedy=_REMEDY, most_bytes=_MOST_BYTES)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise DataError(f"{path}: is no label map that medfuse wrote; {_REMEDY}")
    return validated(LabelIndex, content, str(path), raises=DataError, remedy=_REMEDY)


def slab_reader(path: Path) -> SlabReader:
    """The label map of such a file. Raises DataError."""
    index = read_label_index(path)
    affine = np.eye(4)
    if len(index.affine) != 3 or any(len(row) != 4 for row in index.affine):
        raise DataError(f"{path}: does not fit together; {_REMEDY}")
    affine[:3] = index.affine
    geometry = checked_geometry(path, index.shape, affine)
    largest = max((segment.value for segment in index.segments), default=0)
    dtype = np.dtype(np.min_scalar_type(largest))
    i, j, k = index.shape
    return SlabReader(
        path,
        geometry,
        1,
        dtype,
        3 * i * j * k * dtype.itemsize,
        lambda: ((0, first, slab) for first, slab in slabs_of(_read(index, geometry))),
    )


def _read(index: LabelIndex, like: Geometry) -> npt.NDArray[np.integer[Any]]:
    check_unchanged(index.source)
    values = {segment.number: segment.value for segment in index.segments}
    names = {segment.number: segment.name or str(segment.number) for segment in index.segments}
    if index.kind == "RTSTRUCT":
        return structures.painted(index.source, like, values, names, index.order)
    frames = segmentations.read_frames(index.source)
    return segmentations.painted(frames, like, values, names, index.order, index.slices)


def write_label_index(
    found: LabelObject,
    like: Geometry,
    segments: Sequence[SegmentRecord],
    order: Sequence[int] = (),
    notes: Sequence[str] = (),
    slices: Slices | None = None,
) -> Path:
    """In the user's cache, one file for each object, grid and choice. Raises OutputError."""
    index = LabelIndex(
        format=_FORMAT,
        kind=found.kind,
        source=found.source,
        shape=like.shape,
        affine=tuple(tuple(float(x) for x in row) for row in like.affine[:3]),
        segments=tuple(segments),
        order=tuple(order),
        notes=(*(f"{found.place}: {note}" for note in (*found.notes, *notes)),),
        slices=slices,
    )
    text = index.model_dump_json()
    about = text.replace(found.source.model_dump_json(), str(found.place))
    digest = hashlib.sha256(about.encode()).hexdigest()[:16]
    path = cache_folder() / "labels" / digest / f"{stem(Path(str(found.place)))}{LABELS}"
    if not (path.is_file() and path.read_text(encoding="utf-8") == text):
        make_private(path.parent)
        write_text(path, text)
    return path


def numbered(found: LabelObject) -> list[SegmentRecord]:
    """Segments whose values are their numbers."""
    return [SegmentRecord(number=s.number, name=s.name, value=s.number) for s in found.segments if s.number]


def fitting(
    found: LabelObject, labels: Mapping[str, LabelValue], order: Sequence[int] = (), *, by_number: bool
) -> tuple[list[SegmentRecord], tuple[int, ...], list[str]]:
    """The segments that are among `labels`, which values may overlap, and what to tell.

    A segment is the label whose name it bears; where none bears one and `by_number` holds, the value that
    is its number. Of a region it has the value that `order` says, or else the one that no region inside it
    has. Others are left out. Raises DataError where a region has none.
    """
    labels = {name: value for name, value in labels.items() if value != 0}
    named = named_alike(found.segments, labels)
    notes: list[str] = []
    if named or not by_number:
        written, order = _written(found, labels, order)
        kept = [
            SegmentRecord(number=s.number, name=s.name, value=written[named[s.number]])
            for s in found.segments
            if s.number in named
        ]
    else:
        known = {n for value in labels.values() for n in members(value)}
        kept = [one for one in numbered(found) if one.value in known]
        if kept:
            shown = listed([f"{s.name or 'the segment'} is {s.value}" for s in kept], 6)
            notes.append(f"no segment is called like a class, so their numbers are taken for values: {shown}")
    held = {one.number for one in kept}
    if others := [s.name or str(s.number) for s in found.segments if s.number not in held]:
        which = f"{listed(others, 6)} {'is' if len(others) == 1 else 'are'}"
        notes.append(f"{which} none of the classes ({listed([*labels], 6)}) and left out")
    return kept, tuple(order), notes


def _written(
    found: LabelObject, labels: Mapping[str, LabelValue], order: Sequence[int]
) -> tuple[dict[str, int], Sequence[int]]:
    """Label → the value that is written for it, and which of these may lie over others."""
    if not any(isinstance(value, tuple) for value in labels.values()):
        return {name: members(value)[0] for name, value in labels.items()}, order
    if order:
        written = {name: members(value)[0] for name, value in labels.items()} | dict(zip(labels, order))
        return written, (*order, *(value for value in written.values() if value not in order))
    written = {}
    for name in sorted(labels, key=lambda name: -len(members(labels[name]))):
        own = {*members(labels[name])}
        inner = [{*members(v)} for v in labels.values() if {*members(v)} < own]
        left = sorted(own.difference(*inner))
        if not left:
            raise DataError(
                f"{found.place}: what is region {name} and none of those inside it has no value; give each "
                "value of the label map a name"
            )
        written[name] = left[0]
    return written, tuple(written.values())


def check_space(found: LabelObject, index: Index) -> list[str]:
    """What to tell of an object and the series that it is used with.

    Raises DataError where it is of another.
    """
    if index.faults or not found.instances or found.instances & {frame.uid for frame in index.frames}:
        return []
    space = _space_of(index.sources[0])
    if space and found.spaces and space not in found.spaces:
        raise DataError(
            f"{found.place}: is of another scan than {index.name}: neither its images nor its frame of "
            "reference are those of the series; pair it with the series that it names"
        )
    return [f"names none of the images of {index.name}; it is placed by its own coordinates"]


def _space_of(source: Source) -> str:
    from pydicom import dcmread

    with reading(source.place), source_bytes(source) as file:
        said = dcmread(file, specific_tags=["FrameOfReferenceUID"], stop_before_pixels=True, force=True)
        return text_of(said.get("FrameOfReferenceUID"))


def own_grid(several: Sequence[LabelObject], beside: Sequence[Path] = ()) -> Geometry:
    """The grid of the series that they name, if it is in `beside`; else that of the SEGs among them, with
    as many slices as all of them lie in.

    Raises DataError where there is neither.
    """
    for folder in beside:
        for series in find_series(folder).series:
            uids = {frame.uid for frame in series.stack.frames}
            if any(found.instances & uids for found in several):
                index = index_of(series)
                return Geometry(index.shape, np.array([*index.affine, (0, 0, 0, 1)]))
    segs = [found for found in several if found.kind == "SEG"]
    if not segs:
        raise DataError(
            f"{several[0].place}: an RTSTRUCT is contours and has no voxels; give it with the image that "
            "it was drawn on, or give a folder that holds both"
        )
    grid = _grid_of([segmentations.read_frames(found.source) for found in segs])
    for found in several:
        if found.kind == "RTSTRUCT":
            grid = structures.with_slices(found.source, grid)
    return grid


def _grid_of(segs: Sequence[segmentations.Frames]) -> Geometry:
    """The grid that all lie on; where there is none, that of the first that has one. Raises DataError."""
    try:
        return segmentations.own_grid(segs)
    except DataError:
        for one in segs if len(segs) > 1 else ():
            with suppress(DataError):
                return segmentations.own_grid([one])
        raise


def as_label_file(path: Path) -> Path:
    """A path that label maps are read from: of a SEG by itself, on its own grid, with its own numbers.

    Other paths are what they are. Raises DataError.
    """
    if ending(path) or (found := label_object(path)) is None:
        return path
    beside = [] if is_dicom(path) else [path]
    return write_label_index(found, own_grid([found], beside), numbered(found))
