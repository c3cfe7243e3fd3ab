"""What written DICOM files take from the series that they are about: patient, study, and references to it."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.core.errors import DataError
from medfuse.volumes.dicom.about import made_uid
from medfuse.volumes.dicom.index import Index, members
from medfuse.volumes.dicom.quiet import quietly

if TYPE_CHECKING:
    from pydicom import Dataset

UTF_8 = "ISO_IR 192"
_WANTED_EVEN_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip
_WANTED = (
    "IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "StudyDescription",
    "PatientIdentityRemoved", "DeidentificationMethod", "LossyImageCompression", "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)  # fmt: skip
_PLACES = ("ImagePositionPatient", "PerFrameFunctionalGroupsSequence", "DetectorInformationSequence")
_UIDS = ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesInstanceUID")


def source_header(index: Index) -> Dataset:
    """The header of the first file of a series. Raises DataError."""
    from pydicom import dcmread

    source = index.sources[0]
    try:
        with quietly(), members() as read:
            file = source.file if source.member is None else BytesIO(read(source))
            header = dcmread(file, stop_before_pixels=True, force=True)
            header.decode()
    except DataError:
        raise
    except Exception as error:  # pydicom raises what it meets in a damaged file
        raise DataError(
            f"{source.place}: cannot be read any more ({error}); give the folder of the scan again"
        ) from error
    return header


def patient_and_study(index: Index) -> Dataset:
    """Patient, study and frame of reference for a file about the series, and its SeriesInstanceUID.

    What the series lacks or says wrongly is empty; UIDs, which may not be, are made of what it consists of.
    Texts are in UTF-8. Raises DataError, also of a radiograph, which has no place in the patient.
    """
    from pydicom import Dataset

    header, made = source_header(index), Dataset()
    if not any(name in header for name in _PLACES):
        raise DataError(
            f"{index.sources[0].place}: does not say where in the patient it lies, which DICOM needs of "
            "labels; choose --format nifti"
        )
    made.SpecificCharacterSet = UTF_8
    for name in (*_WANTED_EVEN_EMPTY, *_WANTED):
        said = header.get(name)
        text = "" if said is None else "\\".join(map(str, said)) if header[name].VM > 1 else str(said)
        if text or name in _WANTED_EVEN_EMPTY:
            _set(made, name, text)
    if methods := header.get("DeidentificationMethodCodeSequence"):
        made.DeidentificationMethodCodeSequence = methods
    for name in _UIDS:
        uid = str(header.get(name) or "")
        setattr(made, name, uid if is_uid(uid) else made_uid(name, *parts_of(index)))
    return made


def parts_of(index: Index) -> list[str]:
    """What a series consists of, by which it is known where it has no UIDs."""
    return [
        f"{frame.uid or Path(index.sources[frame.source].file).name} {frame.number}" for frame in index.frames
    ]


def is_uid(text: str) -> bool:
    from pydicom.uid import UID

    return bool(text) and len(text) <= 64 and UID(text, validation_mode=0).is_valid


def references(index: Index, numbers: list[int] | None = None) -> list[Dataset]:
    """An item for each instance of the series, or of those frames: its class and UID, and frames by number.

    None of an instance that has no UID.
    """
    from pydicom import Dataset

    chosen = range(len(index.frames)) if numbers is None else numbers
    by_uid: dict[str, list[int]] = {}
    for n in chosen:
        frame = index.frames[n]
        if is_uid(frame.uid):
            by_uid.setdefault(frame.uid, []).append(frame.number + 1)
    multi = {frame.uid for frame in index.frames if frame.number}
    made = []
    for uid, frames in by_uid.items():
        item = Dataset()
        item.ReferencedSOPClassUID = index.class_uid
        item.ReferencedSOPInstanceUID = uid
        if numbers is not None and uid in multi:
            item.ReferencedFrameNumber = frames if len(frames) > 1 else frames[0]
        made.append(item)
    return made


_TEXTS = ("LO", "SH", "PN", "ST", "LT", "UT")


def _set(made: Dataset, name: str, text: str) -> None:
    """Texts as they are, even if they are too long; others are empty where they are no such value."""
    from pydicom.config import IGNORE, RAISE
    from pydicom.datadict import dictionary_VR
    from pydicom.dataelem import DataElement
    from pydicom.tag import Tag
    from pydicom.valuerep import validate_value

    kind = dictionary_VR(name)
    if kind not in _TEXTS:
        try:
            validate_value(kind, text, RAISE)
        except ValueError:
            text = ""
    made[name] = DataElement(Tag(name), kind, text, validation_mode=IGNORE)
