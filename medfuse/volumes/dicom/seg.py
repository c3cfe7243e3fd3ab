"""A label map as a DICOM segmentation, by highdicom: one file that says of each label what it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from medfuse.core.codes import Code
from medfuse.core.errors import DataError, OutputError
from medfuse.core.files import atomic
from medfuse.core.label_table import LabelEntry
from medfuse.volumes.dicom.about import MAKER, About, made_uid, moment, plain
from medfuse.volumes.dicom.index import Index
from medfuse.volumes.dicom.quiet import quietly
from medfuse.volumes.dicom.sources import patient_and_study, references
from medfuse.volumes.headers import LPS
from medfuse.volumes.volume import smallest_integer, values_of

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom import Dataset

Labels = npt.NDArray[np.unsignedinteger[Any]]
SegKind = Literal["labelmap", "binary"]

_EXTRA = 'pip install "medfuse[dicom]"'
_LARGEST = 65535  # of a label map in DICOM
_FAMILY = ("123110", "DCM", "Artificial Intelligence")
_PURPOSE = ("121322", "DCM", "Source image for image processing operation")
_DERIVED = ("113076", "DCM", "Segmentation")
_OWN_SCHEME = "99MEDFUSE"


def check_installed() -> None:
    """Raises DataError where highdicom is not."""
    try:
        import_module("highdicom")
    except ImportError as error:
        raise DataError(f"dicom_seg: DICOM segmentations are written by highdicom: {_EXTRA}") from error


def write_seg(
    path: Path,
    labels: Labels,
    index: Index,
    entries: Sequence[LabelEntry],
    about: About,
    *,
    kind: SegKind = "labelmap",
) -> dict[str, Any]:
    """Write a label map (i, j, k) of the series, whole or not at all. Returns what there is to say of it.

    Labels that are nowhere are left out and named, and so are slices without labels. Segments of a label map
    are numbered by their value, those of `binary` in their order. Regions, which may overlap, are `binary`
    whatever is asked for. Raises DataError, OutputError.
    """
    check_installed()
    there = set(values_of(labels)) - {0}
    found = [entry for entry in entries if there & {*entry.members}]
    overlap = any(entry.members != (entry.value,) for entry in entries)
    kind = "binary" if overlap else kind
    shown = found or list(entries[:1])
    if kind == "labelmap" and shown[-1].value > _LARGEST:
        raise OutputError(
            f"{path}: label {shown[-1].name} has value {shown[-1].value}, and a label map in DICOM holds "
            f"{_LARGEST} at most; write it with --seg-type binary"
        )
    made = _segmentation(labels, index, shown, about, kind, overlap)
    with atomic(path) as temporary:
        made.save_as(temporary, enforce_file_format=True)
    absent = [entry.name for entry in entries if entry not in found]
    return {"kind": kind.upper(), **({"absent": absent} if absent else {})}


def _segmentation(
    labels: Labels,
    index: Index,
    entries: Sequence[LabelEntry],
    about: About,
    kind: SegKind,
    overlap: bool,
) -> Segmentation:
    from highdicom.seg import Segmentation

    head = patient_and_study(index)
    now = moment()
    parts = (
        *(head.StudyInstanceUID, head.SeriesInstanceUID, index.affine, index.shape),
        *(kind, about, *entries, label_digest(labels)),
    )
    measures, orientation, positions = _geometry(index)
    with quietly():
        made = Segmentation(
            source_images=[_stand_in()],
            pixel_array=_pixels(labels, entries, kind, overlap),
            segmentation_type=kind.upper(),
            segment_descriptions=_descriptions(entries, about, kind),
            series_instance_uid=made_uid("series", *parts),
            series_number=series_number(index),
            sop_instance_uid=made_uid("instance", *parts),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=MAKER,
            software_versions=about.software[0],
            device_serial_number=MAKER,
            pixel_measures=measures,
            plane_orientation=orientation,
            plane_positions=positions,
            omit_empty_frames=bool(labels.any()),
            content_label=content_label(about.description),
            content_description=plain(about.description),
            series_description=plain(about.description),
            content_date=now.date(),
            content_time=now.time(),
            series_date=now.date(),
            series_time=now.time(),
        )
    for element in head:
        if element.keyword != "SeriesInstanceUID":
            made[element.tag] = element
    made.ContentCreatorName = ""
    made["SoftwareVersions"].value = list(about.software)
    made.InstanceCreationDate, made.InstanceCreationTime = made.ContentDate, made.ContentTime
    for equipment in made.get("ContributingEquipmentSequence") or ():  # highdicom, and when it wrote
        equipment.pop("ContributionDateTime", None)
    organization = made_uid("dimensions", *parts)
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    _refer(made, index, head.SeriesInstanceUID, positions)
    return made


def _stand_in() -> Dataset:
    """What highdicom is told of the series: an image without a patient, on no grid of ours."""
    from pydicom import Dataset
    from pydicom.uid import CTImageStorage

    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, "2.25.1"
    made.StudyInstanceUID = made.FrameOfReferenceUID = made.SeriesInstanceUID = "2.25.2"
    made.PatientID = made.PatientName = made.PatientBirthDate = made.PatientSex = ""
    made.AccessionNumber = made.StudyID = made.StudyDate = made.StudyTime = ""
    made.Modality, made.Rows, made.Columns = "CT", 1, 1
    made.ImageOrientationPatient, made.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
    made.PixelSpacing, made.SliceThickness = [1, 1], 1
    return made


def _geometry(index: Index) -> tuple[Any, Any, Any]:
    """Pixel measures, orientation and the place of each slice, in DICOM's axes."""
    from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence

    rows = np.array(index.affine, float) * LPS[:, None]
    mm = np.linalg.norm(rows[:, :3], axis=0)
    along_i, along_j = rows[:, 0] / mm[0], rows[:, 1] / mm[1]
    apart = float(abs(np.cross(along_i, along_j) @ rows[:, 2]))
    measures = PixelMeasuresSequence(
        pixel_spacing=[mm[1], mm[0]], slice_thickness=apart, spacing_between_slices=apart
    )
    orientation = PlaneOrientationSequence("PATIENT", [*along_i, *along_j])
    places = rows[:, 3] + np.outer(np.arange(index.shape[2]), rows[:, 2])
    return measures, orientation, [PlanePositionSequence("PATIENT", list(place)) for place in places]


def _pixels(
    labels: Labels, entries: Sequence[LabelEntry], kind: SegKind, overlap: bool
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Frames (k, j, i), of overlapping regions (k, j, i, region), of the numbers of segments."""
    frames = labels.T
    if overlap:
        masks = [np.isin(frames, entry.members) for entry in entries]
        return np.stack(masks, axis=-1).view(np.uint8)
    if kind == "labelmap":
        return frames.astype(smallest_integer(entries[-1].value), copy=False)
    numbers = np.zeros(entries[-1].value + 1, smallest_integer(len(entries)))
    numbers[[entry.value for entry in entries]] = np.arange(1, len(entries) + 1)
    return numbers[frames]


def _descriptions(entries: Sequence[LabelEntry], about: About, kind: SegKind) -> list[SegmentDescription]:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept

    algorithm = AlgorithmIdentificationSequence(
        plain(about.description) or MAKER,
        CodedConcept(*_FAMILY),
        about.software[0],
        parameters={"weights": " ".join(about.weights)} if about.weights else None,
    )
    made = []
    for place, entry in enumerate(entries, 1):
        described = SegmentDescription(
            segment_number=entry.value if kind == "labelmap" else place,
            segment_label=plain(entry.name),
            segmented_property_category=_concept(entry.kind),
            segmented_property_type=_concept(entry.code or _own_code(entry.name)),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            anatomic_regions=[_concept(entry.within)] if entry.within else None,
            display_color=CIELabColor.from_rgb(*entry.rgb),
        )
        if entry.side:
            modified = described.AnatomicRegionSequence if entry.within else None
            if modified:
                modified[0].AnatomicRegionModifierSequence = [_concept(entry.side)]
            else:
                described.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
                    _concept(entry.side)
                ]
        made.append(described)
    return made


def _concept(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, plain(code.meaning))


def _own_code(name: str) -> Code:
    """Of a label that has none, as there must be one: a code of nobody's but medfuse's, and its name."""
    return Code(_OWN_SCHEME, made_uid(name)[-16:], plain(name) or MAKER)


def content_label(text: str) -> str:
    """A text as a code string: capitals, digits and underscores, 16 at most."""
    return re.sub(r"[^A-Z0-9]+", "_", text.upper()).strip("_")[:16].strip("_") or "SEGMENTATION"


def series_number(index: Index) -> int:
    """One that the scanner hardly gave: that of the series and a thousand."""
    said = index.says.get("SeriesNumber", "")
    number = int(said) if said.isascii() and said.isdecimal() and len(said) < 8 else 0
    return 1000 + number


def label_digest(labels: Labels) -> str:
    import hashlib

    kind = np.dtype(smallest_integer(int(labels.max()))).newbyteorder("<")  # whatever type holds them here
    digest = hashlib.sha256(repr((labels.shape, kind.str)).encode())
    for frame in labels.T:
        digest.update(np.ascontiguousarray(frame, kind).data)
    return digest.hexdigest()


def _refer(made: Segmentation, index: Index, series_uid: str, positions: Sequence[Any]) -> None:
    """The images that it was made from; and of each slice its own, where it is a frame as it is."""
    from highdicom.sr import CodedConcept
    from pydicom import Dataset

    for frame in made.PerFrameFunctionalGroupsSequence:
        frame.DerivationImageSequence = []
    whole = references(index)
    for name in ("SourceImageSequence", "ReferencedSeriesSequence"):
        if name in made:
            del made[name]
    if not whole:
        return
    made.SourceImageSequence = whole
    series = Dataset()
    series.SeriesInstanceUID = series_uid
    series.ReferencedInstanceSequence = references(index)
    made.ReferencedSeriesSequence = [series]
    if index.planes:  # slices that were resampled are nobody's frames
        return
    purpose, derivation = [CodedConcept(*_PURPOSE)], [CodedConcept(*_DERIVED)]
    place_of = {_place(position[0]): k for k, position in enumerate(positions)}
    for frame in made.PerFrameFunctionalGroupsSequence:
        k = place_of[_place(frame.PlanePositionSequence[0])]
        frame.DerivationImageSequence = [
            _derived(item, purpose, derivation) for item in references(index, [k])
        ]


def _place(position: Dataset) -> tuple[float, ...]:
    return tuple(float(x) for x in position.ImagePositionPatient)


def _derived(source: Dataset, purpose: Sequence[Dataset], derivation: Sequence[Dataset]) -> Dataset:
    from pydicom import Dataset

    source.PurposeOfReferenceCodeSequence = purpose
    source.SpatialLocationsPreserved = "YES"
    made = Dataset()
    made.DerivationCodeSequence = derivation
    made.SourceImageSequence = [source]
    return made
