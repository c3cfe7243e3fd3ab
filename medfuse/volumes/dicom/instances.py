"""What the header of a DICOM file says of each of its frames."""

from __future__ import annotations

import logging
import re
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from math import isfinite
from typing import IO, TYPE_CHECKING, Any
from zipfile import ZipFile

from medfuse.core.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

MOST_FRAMES = 100_000
MOST_UNPACKED = 1 << 31
MUCH_UNPACKED, MOST_TIMES = 1 << 26, 200
"""Bytes that are unpacked of one file: so many; of more than these no more times than what is stored."""
MOST_SIDE = 65_535

UNCOMPRESSED = ("", *(f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".1.99", ".2")))
"""Transfer syntaxes whose pixels stand as they are; of a file without a header none is said."""
_META_BYTES = 2048
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_RADIOGRAPHS = ("CR", "DX", "MG", "IO", "PX", "RG", "RF", "XA", "US")
_IMAGES = ("Image Storage", "Dose Storage", "Parametric Map Storage")
_NO_IMAGES = ("SEG", "PR", "KO", "SR")
_WANTED = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"),
    *("PatientID", "StudyDate", "SeriesNumber", "SeriesDescription", "Modality", "ImageType"),
    *("InstanceNumber", "AcquisitionNumber", "EchoNumbers", "TemporalPositionIdentifier", "DiffusionBValue"),
    *("TriggerTime", "ContentTime", "AcquisitionTime", "NumberOfFrames", "Rows", "Columns"),
    *("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("ImagePositionPatient", "ImageOrientationPatient", "GridFrameOffsetVector", "RescaleSlope"),
    *("RescaleIntercept", "RescaleType", "Units", "ModalityLUTSequence", "DoseGridScaling"),
    *("FrameIncrementPointer", "EnergyWindowVector", "DetectorVector", "PhaseVector", "RotationVector"),
    *("RRIntervalVector", "TimeSlotVector", "SliceVector", "AngularViewVector", "TimeSliceVector"),
    *(
        "EchoTime",
        "InversionTime",
        "FlipAngle",
        "FrameReferenceTime",
        "SequenceName",
        "DiffusionGradientOrientation",
    ),
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
    flat: bool = False
    """Whether it is a radiograph, which has no place and is a picture by itself."""


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


class _Quiet(logging.Filter):
    """Of threads that read by `quietly`, whose records are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: Counter[int] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.thread and self.threads[record.thread])


_quiet = _Quiet()


@contextmanager
def quietly() -> Iterator[None]:
    """pydicom without its warnings of values that break the standard: what matters is checked here."""
    log, own = logging.getLogger("pydicom"), threading.get_ident()
    log.addFilter(_quiet)
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    _quiet.threads[own] += 1
    try:
        yield
    finally:
        _quiet.threads[own] -= 1


def read_header(place: Place, file: IO[bytes], keywords: Sequence[str] = ()) -> Instance | None:
    """None of what is DICOM and has no image. `keywords`: further tags that `says` is to hold.

    Raises DataError where the file cannot be read.
    """
    from pydicom import dcmread

    try:
        with quietly():
            check_inflated(place, file)
            tags: list[Any] = [*_WANTED, *keywords]
            said = dcmread(file, stop_before_pixels=True, force=True, specific_tags=tags)
            return _instance(place, said, keywords)
    except DataError:
        raise
    except Exception as error:  # pydicom raises what it meets in a damaged file
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"{place}: is not a readable DICOM file ({words[0][:200]}); copy it again from its source"
        ) from error


def kind_without_image(place: Place, file: IO[bytes]) -> str:
    """What a DICOM object is that has no image, as `Segmentation`; nothing of others."""
    from pydicom import dcmread
    from pydicom.uid import UID

    try:
        if read_header(place, file) is not None:
            return ""
        file.seek(0)
        with quietly():
            tags: list[Any] = ["SOPClassUID", "Modality"]
            said = dcmread(file, stop_before_pixels=True, force=True, specific_tags=tags)
    except Exception:  # of what is damaged `read_header` has told
        return ""
    uid = UID(text_of(said.get("SOPClassUID")))
    return uid.name.removesuffix(" Storage") if uid.name != uid else text_of(said.get("Modality"))


def pixel_hash(frame: Frame) -> str:
    """Of pixels as they are stored, by which copies are known; of one of several frames, its place."""
    from pydicom import dcmread

    place, own = frame.place, f"{frame.place} {frame.number}"
    if frame.number:
        return own
    try:
        with quietly(), ExitStack() as stack:
            file: Any = place.file
            if place.member is not None:
                file = stack.enter_context(stack.enter_context(ZipFile(file)).open(place.member))
            said = dcmread(file, force=True, specific_tags=["PixelData", "NumberOfFrames"])
            return sha256(said.PixelData).hexdigest() if int(said.get("NumberOfFrames") or 1) == 1 else own
    except Exception:  # whatever is damaged is no copy, and is told when it is read
        return own


def is_bomb(unpacked: int, stored: int) -> bool:
    """Whether so many bytes are more than any scan is when it is unpacked from `stored` ones."""
    return unpacked > MOST_UNPACKED or (unpacked > MUCH_UNPACKED and unpacked > MOST_TIMES * stored)


def check_inflated(place: Place, file: IO[bytes]) -> None:
    """Raises DataError for a deflated file that unpacks to more than any scan is."""
    begin = file.read(_META_BYTES)
    if _DEFLATED in begin and begin[128:136] == b"DICM\2\0\0\0":
        file.seek(144 + int.from_bytes(begin[140:144], "little"))
        stream, count, stored = zlib.decompressobj(-zlib.MAX_WBITS), 0, 0
        while not stream.eof and (part := stream.unconsumed_tail or file.read(1 << 20)):
            stored += 0 if stream.unconsumed_tail else len(part)
            count += len(stream.decompress(part, 1 << 24))
            if is_bomb(count, max(stored, 1 << 20)):
                raise DataError(f"{place}: unpacks to more than {count:,} bytes; convert it with dcmconv")
    file.seek(0)


def _instance(place: Place, said: Dataset, keywords: Sequence[str]) -> Instance | None:
    rows, columns = (whole_of(said.get(name)) for name in ("Rows", "Columns"))
    meta = getattr(said, "file_meta", None) or {}
    class_uid = text_of(said.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID"))
    if text_of(said.get("Modality")) in _NO_IMAGES:
        return None
    if not rows and not columns:
        _check_no_image(place, class_uid, bool(said.get("DirectoryRecordSequence") or not meta))
        return None
    if not 0 < rows <= MOST_SIDE or not 0 < columns <= MOST_SIDE:
        raise DataError(f"{place}: says {columns}×{rows} pixels; copy it again from its source")
    own = len(said.get("PerFrameFunctionalGroupsSequence") or ())
    count = int(_number(place, said, "NumberOfFrames") or own or 1)
    if not 0 < count <= MOST_FRAMES or own not in (0, count):
        raise DataError(
            f"{place}: says {count} frames{f' and describes {own}' if own else ''}; copy it again from its "
            "source"
        )
    bits = tuple(whole_of(said.get(name)) or 0 for name in ("BitsAllocated", "BitsStored", "HighBit"))
    if bits[0] not in (1, 8, 16, 32, 64) or not 0 <= bits[1] <= bits[0]:
        raise DataError(
            f"{place}: says pixels of {bits[0]} bits, {bits[1]} of them used; copy it again from its source"
        )
    return Instance(
        place,
        series=text_of(said.get("SeriesInstanceUID")),
        says=_spoken(said, keywords),
        image_type=tuple(text_of(word).upper() for word in _many(said.get("ImageType"))),
        syntax=text_of(meta.get("TransferSyntaxUID")),
        samples=whole_of(said.get("SamplesPerPixel")) or 1,
        photometric=text_of(said.get("PhotometricInterpretation")).upper() or "MONOCHROME2",
        bits=(bits[0], bits[1] or bits[0], bits[2]),
        signed=whole_of(said.get("PixelRepresentation")) == 1,
        table=bool(said.get("ModalityLUTSequence")),
        units=text_of(said.get("Units")) or _units_of(said),
        frames=tuple(frames_of(place, said, count, class_uid, (columns, rows))),
    )


def _check_no_image(place: Place, class_uid: str, other: bool) -> None:
    """Raises DataError for a file without a size of pixels that is an image, or says not what it is.

    other: whether it may be no object of DICOM at all.
    """
    from pydicom.uid import UID

    name = UID(class_uid).name if class_uid else ""
    if any(word in name for word in _IMAGES) or (not re.fullmatch(r"[\d.]{8,64}", class_uid) and not other):
        what = f"is a {name.removesuffix(' Storage')} that says" if name and name != class_uid else "says"
        raise DataError(f"{place}: {what} no size of its pixels; copy it again from its source")


def _spoken(said: Dataset, keywords: Sequence[str]) -> dict[str, str]:
    """Tags that hold a plain value, as text; of multi-frame files what their first frame says."""
    found = {}
    for element in said:
        if element.VR not in ("SQ", "OB", "OW", "UN", "OF", "OD") and element.keyword:
            values = element.value if element.VM > 1 else [element.value]
            found[element.keyword] = "\\".join(text_of(value) for value in values)
    groups = _groups(said, 0)
    for keyword in dict.fromkeys(("SliceThickness", "RescaleIntercept", *keywords)):
        inner = [item[0] for group in groups for item in _sequences(group) if keyword in item[0]]
        if keyword not in found and inner:
            found[keyword] = _joined(inner[0].get(keyword))
    return found


def _sequences(group: Dataset) -> list[Any]:
    return [element.value for element in group if element.VR == "SQ" and element.value]


def _units_of(said: Dataset) -> str:
    group = _groups(said, 0)
    found = _in(group, "PixelValueTransformationSequence", "RescaleType")
    return text_of(said.get("RescaleType")) or text_of(found)


def frames_of(
    place: Place, said: Dataset, count: int, class_uid: str, shape: tuple[int, int]
) -> Iterator[Frame]:
    """What a header says of each of its frames, `shape` (columns, rows). Raises DataError."""
    uid = text_of(said.get("SOPInstanceUID"))
    order = whole_of(said.get("InstanceNumber")) or 0
    orientation = reals_of(said.get("ImageOrientationPatient"), 6) or _of_detector(
        said, "ImageOrientationPatient", 6
    )
    position = reals_of(said.get("ImagePositionPatient"), 3) or _of_detector(said, "ImagePositionPatient", 3)
    spacing = reals_of(said.get("PixelSpacing" if said.get("PixelSpacing") else "ImagerPixelSpacing"), 2)
    flat = count == 1 and position is None and text_of(said.get("Modality")) in _RADIOGRAPHS
    offsets = _offsets(said, count)
    dose = _number(place, said, "DoseGridScaling")
    for n in range(count):
        group = _groups(said, n)
        own = reals_of(_in(group, "PlaneOrientationSequence", "ImageOrientationPatient"), 6) or orientation
        at = reals_of(_in(group, "PlanePositionSequence", "ImagePositionPatient"), 3)
        if at is None and position and own:
            at = _shifted(place, position, own, offsets[n]) if offsets else (position if count == 1 else None)
        measures = "PixelMeasuresSequence"
        mm = reals_of(_in(group, measures, "PixelSpacing"), 2) or spacing
        scaling = _having(group, "PixelValueTransformationSequence", "RescaleSlope") or said
        slope, intercept = (_number(place, scaling, name) for name in ("RescaleSlope", "RescaleIntercept"))
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
            _unit(place, own[:3]) if own else None,
            _unit(place, own[3:]) if own else None,
            (mm[1], mm[0]) if mm else None,
            thick or _real(said.get("SpacingBetweenSlices")) or _real(said.get("SliceThickness")),
            slope if slope is not None else 1.0 if dose is None else dose,
            intercept if intercept is not None else 0.0,
            _apart(said, group, n),
            flat,
        )


_APART = (
    *("EchoNumbers", "TemporalPositionIdentifier", "DiffusionBValue", "DiffusionGradientOrientation"),
    *("AcquisitionNumber", "TriggerTime", "ImageType", "EchoTime", "InversionTime", "FlipAngle"),
    *("SequenceName", "FrameReferenceTime", "AcquisitionTime", "ContentTime"),
)
_VECTORS = (
    *("EnergyWindowVector", "DetectorVector", "PhaseVector", "RRIntervalVector", "TimeSlotVector"),
    "TimeSliceVector",
)
"""Of nuclear medicine: a number for each frame."""
_AROUND = ("RotationVector", "AngularViewVector")
"""Where these are, frames are views from around the patient, and no slices."""
_APART_IN_FRAMES = (
    ("MREchoSequence", "EffectiveEchoTime"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("FrameContentSequence", "StackID"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("DiffusionGradientDirectionSequence", "DiffusionGradientOrientation"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("MRImageFrameTypeSequence", "FrameType"),
    ("CTImageFrameTypeSequence", "FrameType"),
)


def _apart(said: Dataset, group: tuple[Dataset, ...], n: int) -> tuple[tuple[str, str], ...]:
    found = [(name, _joined(said.get(name))) for name in _APART]
    found += [(name, text_of(value[n])) for name in _VECTORS if n < len(value := _many(said.get(name)))]
    inner = tuple(item for one in group for item in (one, *(s[0] for s in _sequences(one))))
    found += [(name, _joined(_in(inner, sequence, name))) for sequence, name in _APART_IN_FRAMES]
    return tuple((name, value) for name, value in found if value)


def _groups(said: Dataset, n: int) -> tuple[Dataset, ...]:
    """The functional groups of a frame, its own before those that all share."""
    own = said.get("PerFrameFunctionalGroupsSequence")
    shared = said.get("SharedFunctionalGroupsSequence")
    return (*([own[n]] if own and n < len(own) else []), *([shared[0]] if shared else []))


def _in(groups: tuple[Dataset, ...], sequence: str, name: str) -> Any:
    found = _having(groups, sequence, name)
    return None if found is None else found.get(name)


def _having(groups: tuple[Dataset, ...], sequence: str, name: str) -> Any:
    """The first item of a sequence in the groups that says so."""
    for group in groups:
        inner = group.get(sequence)
        if inner and name in inner[0]:
            return inner[0]
    return None


def _of_detector(said: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """Nuclear medicine keeps position and orientation of its frames with the detector."""
    inner = said.get("DetectorInformationSequence")
    return reals_of(inner[0].get(name), count) if inner else None


def _offsets(said: Dataset, count: int) -> list[float] | None:
    """How far each frame lies from the first, along the normal, where frames say no position."""
    if count == 1:
        return None
    given = [_real(value) for value in _many(said.get("GridFrameOffsetVector"))]
    offsets = [value for value in given if value is not None]
    if len(offsets) == count:
        return [value - offsets[0] for value in offsets]
    step = _real(said.get("SpacingBetweenSlices"))
    slices = _slices(said, count)
    return [n * step for n in slices] if step and slices else None


def _slices(said: Dataset, count: int) -> list[int] | None:
    """Which slice each frame is, from 0; None where frames are no slices."""
    given = [whole_of(value) for value in _many(said.get("SliceVector"))]
    if len(given) == count:
        return [n - 1 for n in given]
    kinds = {text_of(word).upper() for word in _many(said.get("ImageType"))[2:]}
    varying = any(len({*map(text_of, _many(said.get(name)))}) > 1 for name in _VECTORS)
    if varying or any(said.get(name) for name in _AROUND) or kinds & _NO_SLICES:
        return None
    return list(range(count))


_NO_SLICES = {"STATIC", "DYNAMIC", "GATED", "WHOLE BODY", "TOMO", "GATED TOMO"}


def _shifted(
    place: Place, position: tuple[float, ...], six: tuple[float, ...], by: float
) -> tuple[float, float, float]:
    (a, b, c), (d, e, f) = _unit(place, six[:3]), _unit(place, six[3:])
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    x, y, z = (p + by * n for p, n in zip(position, normal))
    return x, y, z


def _unit(place: Place, vector: tuple[float, ...]) -> tuple[float, float, float]:
    length = sum(v * v for v in vector) ** 0.5
    if not 0.9 < length < 1.1:
        raise DataError(f"{place}: its image orientation has no unit vectors; copy it again from its source")
    x, y, z = (v / length for v in vector)
    return x, y, z


def _many(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if not isinstance(value, str | bytes) and hasattr(value, "__iter__") else [value]


def _joined(value: Any) -> str:
    return "\\".join(text_of(one).removesuffix(".0") for one in _many(value))


def text_of(value: Any) -> str:
    return re.sub(r"[\x00-\x1f\x7f]+", " ", str(value)).strip() if value is not None else ""


def _real(value: Any) -> float | None:
    try:
        found = float(str(value).strip().replace(",", "."))
    except (TypeError, ValueError):
        return None
    return found if isfinite(found) else None


def _number(place: Place, said: Dataset, name: str) -> float | None:
    """None where a file says nothing. Raises DataError where what it says is no number."""
    value = said.get(name)
    if value is None or text_of(value) == "":
        return None
    if (found := _real(value)) is None:
        raise DataError(f"{place}: its {name} is {text_of(value)[:40]!r}; copy it again from its source")
    return found


def reals_of(value: Any, count: int) -> Any:
    found = [_real(one) for one in _many(value)]
    return tuple(found) if len(found) == count and None not in found else None


def whole_of(value: Any) -> int:
    try:
        return int(str(value))
    except (TypeError, ValueError):
        return 0
