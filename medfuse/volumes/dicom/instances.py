"""What the header of a DICOM file says of each of its frames."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Any
from zipfile import ZipFile

from medfuse.core.errors import DataError
from medfuse.volumes.dicom.frames import Frame, frames_of, groups_of, said_in, sequences_of
from medfuse.volumes.dicom.place import Place
from medfuse.volumes.dicom.quiet import quietly
from medfuse.volumes.dicom.values import joined_text, many, number_of, text_of, whole_of

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
class Instance:
    """A file's header: what its series, its study and its pixels are, and its frames.

    `says`: tags by keyword, as text, by which series are chosen and named.
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


def series_said(file: IO[bytes]) -> str:
    """The UID of the series that a damaged file is of, if it still says that."""
    from pydicom import dcmread

    try:
        file.seek(0)
        with quietly():
            tags: list[Any] = ["SeriesInstanceUID"]
            said = dcmread(file, stop_before_pixels=True, force=True, specific_tags=tags)
            return text_of(said.get("SeriesInstanceUID"))
    except Exception:  # where even that is damaged
        return ""


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
    count = int(number_of(place, said, "NumberOfFrames") or own or 1)
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
        image_type=tuple(text_of(word).upper() for word in many(said.get("ImageType"))),
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
    groups = groups_of(said, 0)
    for keyword in dict.fromkeys(("SliceThickness", "RescaleIntercept", *keywords)):
        inner = [item[0] for group in groups for item in sequences_of(group) if keyword in item[0]]
        if keyword not in found and inner:
            found[keyword] = joined_text(inner[0].get(keyword))
    return found


def _units_of(said: Dataset) -> str:
    group = groups_of(said, 0)
    found = said_in(group, "PixelValueTransformationSequence", "RescaleType")
    return text_of(said.get("RescaleType")) or text_of(found)
