"""DICOM objects that are labels, SEG and RTSTRUCT: found, and what they say of their segments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal, cast

from medfuse.core.errors import DataError
from medfuse.core.text import listed
from medfuse.volumes.dicom.files import Unread, holds_dicom, opened
from medfuse.volumes.dicom.index import Source, members, source_of
from medfuse.volumes.dicom.instances import check_inflated
from medfuse.volumes.dicom.place import Place
from medfuse.volumes.dicom.quiet import quietly
from medfuse.volumes.dicom.values import text_of, whole_of
from medfuse.volumes.faults import last_line

if TYPE_CHECKING:
    from pydicom import Dataset

Kind = Literal["SEG", "RTSTRUCT"]
_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
_KINDS: dict[str, Kind] = {
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    _LABEL_MAP: "SEG",
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
}
_SURFACES = "1.2.840.10008.5.1.4.1.1.66.5"
_CLASS_ENDS = 0x00080018
_VOXELS_BEGIN = 0x30060039
"""The contours of RTSTRUCT; beyond them are the frames of SEG."""
_OPEN = 0xFFFFFFFF
MOST_SEGMENTS = 65_535


@dataclass(frozen=True)
class Segment:
    """A segment of SEG, or a region of interest of RTSTRUCT."""

    number: int
    name: str


@dataclass(frozen=True, eq=False)
class LabelObject:
    """What a SEG or an RTSTRUCT says of itself. `instances`, `spaces`: UIDs of images and of frames of
    reference that it names. `notes`: what to tell of how it is read.
    """

    source: Source
    kind: Kind
    segments: tuple[Segment, ...]
    spaces: frozenset[str]
    instances: frozenset[str]
    notes: tuple[str, ...]

    @property
    def place(self) -> Place:
        return self.source.place


def label_places(path: Path) -> list[Place]:
    """The SEG and RTSTRUCT objects in a file, a folder and those inside, or a zip file. Raises DataError."""
    if not path.exists() or not holds_dicom(path):
        return []
    faults: list[Unread] = []
    found = [place for place, file in opened(path, faults) if _class_of(place, file) in (*_KINDS, _SURFACES)]
    if faults and not found:
        raise DataError(*(fault.line for fault in faults))
    return found


def label_object(path: Path) -> LabelObject | None:
    """The only SEG or RTSTRUCT in `path`; None where there is none. Raises DataError for several."""
    places = label_places(path)
    if len(places) > 1:
        names = listed([str(place).rpartition("/")[2] for place in places], 4)
        raise DataError(
            f"{path}: holds {len(places)} SEG or RTSTRUCT objects ({names}), where one is wanted; name the "
            "file of one"
        )
    return _read(places[0]) if places else None


def _class_of(place: Place, file: IO[bytes]) -> str:
    from pydicom.filereader import read_partial

    try:
        with quietly():
            check_inflated(place, file)
            said = read_partial(
                cast("BinaryIO", file), stop_when=lambda tag, *_: tag >= _CLASS_ENDS, force=True
            )
            return text_of(said.get("SOPClassUID"))
    except Exception:  # pydicom raises what it meets; whoever reads such a file is told what it is
        return ""


def _read(place: Place) -> LabelObject:
    from pydicom.filereader import read_partial

    source = source_of(place)
    with reading(place), source_bytes(source) as file:
        said = read_partial(file, stop_when=lambda tag, *_: tag >= _VOXELS_BEGIN, force=True)
        return _seg(source, said) if kind_of(said, place) == "SEG" else _rtstruct(source, said)


def kind_of(said: Dataset, place: Place) -> Kind:
    """Raises DataError of surfaces, which are no voxels."""
    uid = text_of(said.get("SOPClassUID"))
    if uid not in _KINDS:
        raise DataError(f"{place}: is a DICOM surface, which no label map is made of; export it as SEG")
    return _KINDS[uid]


def is_label_map(said: Dataset) -> bool:
    """Whether the pixels of a SEG are numbers of segments."""
    return text_of(said.get("SOPClassUID")) == _LABEL_MAP


@contextmanager
def reading(place: Place) -> Iterator[None]:
    """Whatever pydicom meets in a damaged file, as a line. Raises DataError."""
    try:
        with quietly():
            yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{place}: is truncated or damaged; copy it again from its source ({last_line(error)})"
        ) from error


@contextmanager
def source_bytes(source: Source) -> Iterator[BinaryIO]:
    if source.member is not None:
        with members() as read:
            content = BytesIO(read(source))
        check_inflated(source.place, content)
        yield content
        return
    with open(source.file, "rb") as file:
        check_inflated(source.place, file)
        yield file


def _seg(source: Source, said: Dataset) -> LabelObject:
    found = [
        Segment(whole_of(item.get("SegmentNumber")), text_of(item.get("SegmentLabel")))
        for item in said.get("SegmentSequence") or []
        if not (whole_of(item.get("SegmentNumber")) == 0 and is_label_map(said))  # the background
    ]
    series = said.get("ReferencedSeriesSequence") or []
    instances = [i for item in series for i in item.get("ReferencedInstanceSequence") or []]
    notes = []
    if text_of(said.get("SegmentationType")) == "FRACTIONAL":
        notes.append("holds fractions; a voxel belongs to a segment from one half on")
    return LabelObject(
        source,
        "SEG",
        _checked(source.place, found, "segments", least=1),
        frozenset({text_of(said.get("FrameOfReferenceUID"))} - {""}),
        _instances(instances),
        tuple(notes),
    )


def _rtstruct(source: Source, said: Dataset) -> LabelObject:
    found = [
        Segment(whole_of(item.get("ROINumber")), text_of(item.get("ROIName")))
        for item in said.get("StructureSetROISequence") or []
    ]
    frames = said.get("ReferencedFrameOfReferenceSequence") or []
    spaces = {text_of(item.get("FrameOfReferenceUID")) for item in frames}
    spaces |= {
        text_of(item.get("ReferencedFrameOfReferenceUID"))
        for item in said.get("StructureSetROISequence") or []
    }
    studies = [study for item in frames for study in item.get("RTReferencedStudySequence") or []]
    series = [one for study in studies for one in study.get("RTReferencedSeriesSequence") or []]
    images = [image for one in series for image in one.get("ContourImageSequence") or []]
    return LabelObject(
        source,
        "RTSTRUCT",
        _checked(source.place, found, "regions of interest", least=0),
        frozenset(spaces - {""}),
        _instances(images),
        (),
    )


def check_whole(place: Place, said: Dataset) -> None:
    """Raises DataError where a file ends in the middle of something, which pydicom takes for its end."""
    from pydicom.dataelem import RawDataElement

    for tag in said.keys():  # noqa: SIM118  elements themselves would be read, and are raw no more
        raw = said.get_item(tag)
        if isinstance(raw, RawDataElement) and raw.value is not None and len(raw.value) < raw.length != _OPEN:
            raise DataError(f"{place}: is truncated or damaged; copy it again from its source")


def _instances(items: list[Dataset]) -> frozenset[str]:
    return frozenset({text_of(item.get("ReferencedSOPInstanceUID")) for item in items} - {""})


def _checked(place: Place, found: list[Segment], what: str, *, least: int) -> tuple[Segment, ...]:
    numbers = [segment.number for segment in found]
    if not found:
        raise DataError(f"{place}: names no {what}; export it again, or leave it out")
    if len(found) > MOST_SEGMENTS or min(numbers) < least or len({*numbers}) < len(numbers):
        raise DataError(
            f"{place}: numbers of its {what} are missing or repeated ({listed([*map(str, numbers)], 6)}); "
            "export it again"
        )
    return tuple(found)


def named_alike(segments: tuple[Segment, ...], names: Mapping[str, Any]) -> dict[int, str]:
    """Number of a segment → the name in `names` that it bears: capitals and what is between words aside."""
    known = {_plain(name): name for name in names}
    return {s.number: known[_plain(s.name)] for s in segments if _plain(s.name) in known}


def _plain(name: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in name.casefold()).split())
