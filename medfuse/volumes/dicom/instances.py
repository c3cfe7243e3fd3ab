"""What the header of a DICOM file says of each of its frames."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from typing import IO, TYPE_CHECKING, Any

from medfuse.core.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

MOST_FRAMES = 100_000
MOST_SIDE = 65_535

_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_WANTED = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"),
    *("PatientID", "StudyDate", "SeriesNumber", "SeriesDescription", "Modality", "ImageType"),
    *("InstanceNumber", "AcquisitionNumber", "EchoNumbers", "TemporalPositionIdentifier", "DiffusionBValue"),
    *("TriggerTime", "ContentTime", "AcquisitionTime", "NumberOfFrames", "Rows", "Columns"),
    *("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("ImagePositionPatient", "ImageOrientationPatient", "GridFrameOffsetVector", "RescaleSlope"),
    *("RescaleIntercept", "RescaleType", "Units", "ModalityLUTSequence", "DoseGridScaling"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DetectorInformationSequence"),
    *(
        "ProtocolName",
        "BodyPartExamined",
        "Manufacturer",
        "ConvolutionKernel",
        "SeriesDate",
        "DirectoryRecordSequence",
    ),
]


@dataclass(frozen=True)
class Place:
    """A file, or a member of a zip file."""

    file: str
    member: str | None = None

    def __str__(self) -> str:
        return f"{self.file}/{self.member}" if self.member else self.file


@dataclass(frozen=True)
class Frame:
    """One image of an instance: where it lies in the patient (LPS, mm), and how its numbers are stored.

    `along_i`, `along_j`: unit vectors of growing column and of growing row. `pixel_mm`: (i, j), the distance
    between columns and between rows. `apart`: what tells it from others at the same place.
    """

    place: Place
    number: int
    uid: str
    class_uid: str
    order: int
    shape: tuple[int, int]
    position: tuple[float, float, float] | None
    along_i: tuple[float, float, float] | None
    along_j: tuple[float, float, float] | None
    pixel_mm: tuple[float, float] | None
    thickness_mm: float | None
    slope: float
    intercept: float
    apart: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Instance:
    """A file's header: what its series, its study and its pixels are, and its frames.

    `says`: tags by keyword, as text, by which series are chosen and named. `fault`: why it cannot be read.
    """

    place: Place
    series: str
    says: dict[str, str] = field(hash=False)
    image_type: tuple[str, ...]
    syntax: str
    samples: int
    photometric: str
    bits: tuple[int, int, int]
    signed: bool
    table: bool
    units: str
    frames: tuple[Frame, ...]
    fault: str = ""


@contextmanager
def quietly() -> Iterator[None]:
    """pydicom without its warnings of values that break the standard: what matters is checked here."""
    log = logging.getLogger("pydicom")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def looks_like_dicom(begin: bytes) -> bool:
    """Whether a file that begins so is DICOM: by its mark, or by a first tag of group 2 or 8."""
    if begin[128:132] == b"DICM":
        return True
    group, element = begin[:2], begin[2:4]
    small = group in (b"\x08\x00", b"\x02\x00") and element[1:] == b"\0"
    large = group in (b"\x00\x08", b"\x00\x02") and element[:1] == b"\0"
    if not (small or large) or len(begin) < 12:
        return False
    if begin[4:6].isalpha() and begin[4:6].isupper():  # a value representation
        return True
    length = int.from_bytes(begin[4:8], "little" if small else "big")
    return length < 256


def read_header(place: Place, file: IO[bytes]) -> Instance | None:
    """None of what is DICOM and has no image. Raises DataError where the file cannot be read."""
    from pydicom import dcmread

    try:
        with quietly():
            said = dcmread(file, stop_before_pixels=True, force=True, specific_tags=_WANTED)
            return _instance(place, said)
    except DataError:
        raise
    except Exception as error:  # pydicom raises what it meets in a damaged file
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"{place}: is not a readable DICOM file ({words[0][:200]}); copy it again from its source"
        ) from error


def _instance(place: Place, said: Dataset) -> Instance | None:
    rows, columns = (_whole(said.get(name)) for name in ("Rows", "Columns"))
    class_uid = _text(said.get("SOPClassUID"))
    if not rows or not columns or _text(said.get("Modality")) in ("SEG", "PR", "KO", "SR"):
        return None
    if not 0 < rows <= MOST_SIDE or not 0 < columns <= MOST_SIDE:
        raise DataError(f"{place}: says {columns}×{rows} pixels; copy it again from its source")
    count = _whole(said.get("NumberOfFrames")) or 1
    if not 0 < count <= MOST_FRAMES:
        raise DataError(f"{place}: says {count} frames; copy it again from its source")
    bits = tuple(_whole(said.get(name)) or 0 for name in ("BitsAllocated", "BitsStored", "HighBit"))
    syntax = getattr(getattr(said, "file_meta", None), "TransferSyntaxUID", None)
    return Instance(
        place,
        series=_text(said.get("SeriesInstanceUID")),
        says=_spoken(said),
        image_type=tuple(_text(word).upper() for word in _many(said.get("ImageType"))),
        syntax=_text(syntax),
        samples=_whole(said.get("SamplesPerPixel")) or 1,
        photometric=_text(said.get("PhotometricInterpretation")).upper() or "MONOCHROME2",
        bits=(bits[0], bits[1] or bits[0], bits[2]),
        signed=_whole(said.get("PixelRepresentation")) == 1,
        table="ModalityLUTSequence" in said,
        units=_text(said.get("Units")) or _units_of(said),
        frames=tuple(_frames(place, said, count, class_uid, (columns, rows))),
    )


def _spoken(said: Dataset) -> dict[str, str]:
    """Tags that hold a plain value, as text."""
    found = {}
    for element in said:
        if element.VR not in ("SQ", "OB", "OW", "UN", "OF", "OD") and element.keyword:
            values = element.value if element.VM > 1 else [element.value]
            found[element.keyword] = "\\".join(_text(value) for value in values)
    return found


def _units_of(said: Dataset) -> str:
    group = _groups(said, 0)
    found = _in(group, "PixelValueTransformationSequence", "RescaleType")
    return _text(said.get("RescaleType")) or _text(found)


def _frames(
    place: Place, said: Dataset, count: int, class_uid: str, shape: tuple[int, int]
) -> Iterator[Frame]:
    uid = _text(said.get("SOPInstanceUID"))
    order = _whole(said.get("InstanceNumber")) or 0
    orientation = _reals(said.get("ImageOrientationPatient"), 6) or _of_detector(
        said, "ImageOrientationPatient", 6
    )
    position = _reals(said.get("ImagePositionPatient"), 3) or _of_detector(said, "ImagePositionPatient", 3)
    spacing = _reals(said.get("PixelSpacing"), 2) or _reals(said.get("ImagerPixelSpacing"), 2)
    offsets = _offsets(said, count)
    dose = _real(said.get("DoseGridScaling"))
    for n in range(count):
        group = _groups(said, n)
        own = _reals(_in(group, "PlaneOrientationSequence", "ImageOrientationPatient"), 6) or orientation
        at = _reals(_in(group, "PlanePositionSequence", "ImagePositionPatient"), 3)
        if at is None and position and own:
            at = _shifted(position, own, offsets[n]) if offsets else (position if count == 1 else None)
        measures = "PixelMeasuresSequence"
        mm = _reals(_in(group, measures, "PixelSpacing"), 2) or spacing
        scaling = "PixelValueTransformationSequence"
        slope = _real(_in(group, scaling, "RescaleSlope"))
        intercept = _real(_in(group, scaling, "RescaleIntercept"))
        thick = _real(_in(group, measures, "SpacingBetweenSlices")) or _real(
            _in(group, measures, "SliceThickness")
        )
        yield Frame(
            place,
            n,
            uid,
            class_uid,
            order,
            shape,
            at,
            _unit(own[:3]) if own else None,
            _unit(own[3:]) if own else None,
            (mm[1], mm[0]) if mm else None,
            thick or _real(said.get("SpacingBetweenSlices")) or _real(said.get("SliceThickness")),
            slope if slope is not None else _scale(said.get("RescaleSlope"), dose or 1.0),
            intercept if intercept is not None else _scale(said.get("RescaleIntercept"), 0.0),
            _apart(said, group),
        )


_APART = ("EchoNumbers", "TemporalPositionIdentifier", "DiffusionBValue", "AcquisitionNumber", "TriggerTime")
_APART_IN_FRAMES = (
    ("MREchoSequence", "EffectiveEchoTime"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("FrameContentSequence", "StackID"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("MRImageFrameTypeSequence", "FrameType"),
    ("CTImageFrameTypeSequence", "FrameType"),
)


def _apart(said: Dataset, group: tuple[Dataset, ...]) -> tuple[tuple[str, str], ...]:
    found = [(name, _joined(said.get(name))) for name in (*_APART, "ImageType")]
    found += [(name, _joined(_in(group, sequence, name))) for sequence, name in _APART_IN_FRAMES]
    return tuple((name, value) for name, value in found if value)


def _groups(said: Dataset, n: int) -> tuple[Dataset, ...]:
    """The functional groups of a frame, its own before those that all share."""
    own = said.get("PerFrameFunctionalGroupsSequence")
    shared = said.get("SharedFunctionalGroupsSequence")
    return (*([own[n]] if own and n < len(own) else []), *([shared[0]] if shared else []))


def _in(groups: tuple[Dataset, ...], sequence: str, name: str) -> Any:
    for group in groups:
        inner = group.get(sequence)
        if inner and name in inner[0]:
            return inner[0].get(name)
    return None


def _of_detector(said: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """Nuclear medicine keeps position and orientation of its frames with the detector."""
    inner = said.get("DetectorInformationSequence")
    return _reals(inner[0].get(name), count) if inner else None


def _offsets(said: Dataset, count: int) -> list[float] | None:
    """How far each frame lies from the first, along the normal, where frames say no position."""
    if count == 1:
        return None
    given = [_real(value) for value in _many(said.get("GridFrameOffsetVector"))]
    if len(given) == count and None not in given:
        return [value - (given[0] or 0.0) if given[0] else value for value in given if value is not None]
    step = _real(said.get("SpacingBetweenSlices"))
    return [n * step for n in range(count)] if step else None


def _shifted(position: tuple[float, ...], six: tuple[float, ...], by: float) -> tuple[float, float, float]:
    (a, b, c), (d, e, f) = _unit(six[:3]), _unit(six[3:])
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    x, y, z = (p + by * n for p, n in zip(position, normal))
    return x, y, z


def _unit(vector: tuple[float, ...]) -> tuple[float, float, float]:
    length = sum(v * v for v in vector) ** 0.5
    if not 0.9 < length < 1.1:
        raise DataError("its image orientation has no unit vectors")
    x, y, z = (v / length for v in vector)
    return x, y, z


def _many(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if not isinstance(value, str | bytes) and hasattr(value, "__iter__") else [value]


def _joined(value: Any) -> str:
    return "\\".join(_text(one) for one in _many(value))


def _text(value: Any) -> str:
    return re.sub(r"[\x00-\x1f\x7f]+", " ", str(value)).strip() if value is not None else ""


def _real(value: Any) -> float | None:
    try:
        found = float(str(value).strip().replace(",", "."))
    except (TypeError, ValueError):
        return None
    return found if isfinite(found) else None


def _scale(value: Any, otherwise: float) -> float:
    found = _real(value)
    return otherwise if found is None else found


def _reals(value: Any, count: int) -> Any:
    found = [_real(one) for one in _many(value)]
    return tuple(found) if len(found) == count and None not in found else None


def _whole(value: Any) -> int:
    try:
        return int(str(value))
    except (TypeError, ValueError):
        return 0
