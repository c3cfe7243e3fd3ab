"""A label map as an RTSTRUCT: a region of interest for each label, its contours along the edges of voxels."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from math import ceil, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medfuse.core.codes import KINDS, Code
from medfuse.core.files import atomic
from medfuse.core.label_table import LabelEntry
from medfuse.volumes.dicom.about import MAKER, About, made_uid, moment
from medfuse.volumes.dicom.contours import Floats, traced
from medfuse.volumes.dicom.index import Index
from medfuse.volumes.dicom.quiet import quietly
from medfuse.volumes.dicom.seg import content_label, label_digest, series_number
from medfuse.volumes.dicom.sources import patient_and_study, references
from medfuse.volumes.headers import LPS
from medfuse.volumes.volume import values_of

if TYPE_CHECKING:
    from pydicom import Dataset

Labels = npt.NDArray[np.unsignedinteger[Any]]

_STUDY = "1.2.840.10008.3.1.2.3.1"
"""The class by which an RTSTRUCT refers to a study, retired since and asked for still."""
_FINE = 4
"""Decimals of a voxel in which corners are written: their exact place is half a voxel from any centre."""
_MOST_CHARACTERS = 16
_MOST_BY_VALUE = 1 << 16


def write_rtstruct(
    path: Path, labels: Labels, index: Index, entries: Sequence[LabelEntry], about: About
) -> dict[str, Any]:
    """Write a label map (i, j, k) of the series, whole or not at all. Returns what there is to say of it.

    Each contour is closed and lies in a slice of the label map; filled, they are the label map voxel for
    voxel. Labels that are nowhere are left out and named. Raises DataError, OutputError.
    """
    boxes = _boxes(labels)
    found = [entry for entry in entries if boxes.keys() & {*entry.members}]
    placed = _Placed(index)
    made = _structures(labels, index, found or list(entries[:1]), about, boxes, placed)
    with atomic(path) as temporary, quietly():
        made.save_as(temporary, implicit_vr=True, little_endian=True, enforce_file_format=True)
    absent = [entry.name for entry in entries if entry not in found]
    return {"contours": placed.contours, **({"absent": absent} if absent else {})}


Box = tuple[slice, slice, slice]


def _boxes(labels: Labels) -> dict[int, Box]:
    """Value of a label map → the box around it."""
    from scipy.ndimage import find_objects

    values = [value for value in values_of(labels) if value]
    if values and values[-1] >= _MOST_BY_VALUE:
        numbered = np.searchsorted(values, labels).astype(np.uint32) + 1
        numbered[labels == 0] = 0
        return dict(zip(values, find_objects(numbered)))
    boxes = find_objects(labels)
    return {value: boxes[value - 1] for value in values}


def _structures(
    labels: Labels,
    index: Index,
    entries: Sequence[LabelEntry],
    about: About,
    boxes: dict[int, Box],
    placed: _Placed,
) -> Dataset:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

    made = patient_and_study(index)
    series, space, now = made.SeriesInstanceUID, made.FrameOfReferenceUID, moment()
    parts = (made.StudyInstanceUID, series, index.affine, index.shape, about, *entries, label_digest(labels))
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # explicit ones hold 64 KiB of a contour
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    made.SOPInstanceUID = made_uid("structures", *parts)
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.SeriesInstanceUID = made_uid("series of structures", *parts)
    made.Modality, made.SeriesNumber, made.InstanceNumber = "RTSTRUCT", 1000 + series_number(index), 1
    made.SeriesDescription = made.StructureSetName = about.description[:64]
    made.StructureSetLabel = content_label(about.description)
    made.Manufacturer = made.ManufacturerModelName = MAKER
    made.SoftwareVersions, made.OperatorsName = list(about.software), ""
    for name in ("StructureSet", "InstanceCreation", "Series"):
        setattr(made, f"{name}Date", now.strftime("%Y%m%d"))
        setattr(made, f"{name}Time", now.strftime("%H%M%S"))
    made.ApprovalStatus = "UNAPPROVED"
    frame = Dataset()
    frame.FrameOfReferenceUID = space
    if images := references(index):
        frame.RTReferencedStudySequence = [_study(made.StudyInstanceUID, series, images)]
    made.ReferencedFrameOfReferenceSequence = [frame]
    numbers = _numbers(entries)
    made.StructureSetROISequence = [_region(entry, n, space) for entry, n in zip(entries, numbers)]
    made.ROIContourSequence = [_drawn(labels, entry, n, placed, boxes) for entry, n in zip(entries, numbers)]
    made.RTROIObservationsSequence = [_observed(entry, n) for entry, n in zip(entries, numbers)]
    return made


def _numbers(entries: Sequence[LabelEntry]) -> list[int]:
    """The number of each region: its value, or its place where two have one value or one is too large."""
    values = [entry.value for entry in entries]
    fit = len({*values}) == len(values) and max(values, default=0) < 1 << 31
    return values if fit else list(range(1, len(values) + 1))


def _study(study_uid: str, series_uid: str, images: list[Dataset]) -> Dataset:
    from pydicom import Dataset

    series = Dataset()
    series.SeriesInstanceUID, series.ContourImageSequence = series_uid, images
    study = Dataset()
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY, study_uid
    study.RTReferencedSeriesSequence = [series]
    return study


def _region(entry: LabelEntry, number: int, space: str) -> Dataset:
    from pydicom import Dataset

    region = Dataset()
    region.ROINumber, region.ROIName = number, entry.name[:64]
    region.ReferencedFrameOfReferenceUID, region.ROIGenerationAlgorithm = space, "AUTOMATIC"
    return region


def _observed(entry: LabelEntry, number: int) -> Dataset:
    from pydicom import Dataset

    observed = Dataset()
    observed.ObservationNumber = observed.ReferencedROINumber = number
    observed.RTROIInterpretedType = "ORGAN" if entry.kind == KINDS["organ"] else ""
    observed.ROIInterpreter = ""
    if entry.code:
        observed.RTROIIdentificationCodeSequence = [_code(entry.code)]
    return observed


def _code(code: Code) -> Dataset:
    from pydicom import Dataset

    said = Dataset()
    said.CodeValue, said.CodingSchemeDesignator, said.CodeMeaning = code.value, code.scheme, code.meaning
    return said


class _Placed:
    """Corners of a slice as patient coordinates in text, and the image that lies in the slice."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._rows = np.array(index.affine, float) * LPS[:, None]
        least = float(np.linalg.norm(self._rows[:, :3], axis=0).min())
        self._decimals = min(12, max(0, ceil(_FINE - log10(least))))
        self._images: dict[int, bytes] = {}
        self.contours = 0

    def text(self, corners: Floats, k: int) -> str:
        """Of (n, 2) indices (i, j), in mm towards the patient's left, back and head."""
        index = np.column_stack([corners, np.full(len(corners), k)])
        points = np.round(index @ self._rows[:, :3].T + self._rows[:, 3], self._decimals) + 0.0
        words = [f"{number:.{self._decimals}f}" for number in points.ravel().tolist()]
        if max(map(len, words)) > _MOST_CHARACTERS:
            from pydicom.valuerep import format_number_as_ds

            words = [format_number_as_ds(number) for number in points.ravel().tolist()]
        return "\\".join(words)

    def images(self, k: int) -> bytes:
        """The element that references them; nothing where the slice was put between two."""
        from pydicom import Dataset

        if k not in self._images:
            of, said = self._index.plane(k).of, Dataset()
            if len(of) == 1 and (images := references(self._index, [of[0][0]])):
                said.ContourImageSequence = images
            self._images[k] = _encoded(said)
        return self._images[k]


def _drawn(labels: Labels, entry: LabelEntry, number: int, placed: _Placed, boxes: dict[int, Box]) -> Dataset:
    """A region and its contours; how many there are is counted in `placed`."""
    from pydicom import Dataset
    from pydicom.charset import default_encoding
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    drawn = Dataset()
    drawn.set_original_encoding(True, True, default_encoding)  # so that what is raw is written as it is
    drawn.ReferencedROINumber, drawn.ROIDisplayColor = number, list(entry.rgb)
    items = [
        _item(corners, k, n, placed) for n, (k, corners) in enumerate(_corners(labels, entry, boxes), start=1)
    ]
    if items:
        tag, content = Tag(_TAGS["ContourSequence"]), b"".join(items)
        drawn[tag] = RawDataElement(tag, "SQ", len(content), content, 0, True, True)
        placed.contours += len(items)
    return drawn


def _corners(labels: Labels, entry: LabelEntry, boxes: dict[int, Box]) -> Iterator[tuple[int, Floats]]:
    """Slice and contour, in the order of slices."""
    own = [boxes[value] for value in entry.members if value in boxes]
    if not own:
        return
    box = tuple(slice(min(b[n].start for b in own), max(b[n].stop for b in own)) for n in range(3))
    part = labels[box]
    mask = part == entry.members[0] if len(entry.members) == 1 else np.isin(part, entry.members)
    start = np.array([box[0].start, box[1].start])
    for k, corners in sorted(traced(mask), key=lambda one: one[0]):
        yield k + box[2].start, corners + start


def _item(corners: Floats, k: int, number: int, placed: _Placed) -> bytes:
    """A contour as it stands in the file: a million numbers as values of pydicom are slow and large."""
    points = str(len(corners))
    parts = [
        placed.images(k),
        _element("ContourGeometricType", "CLOSED_PLANAR"),
        _element("NumberOfContourPoints", points),
        _element("ContourNumber", str(number)),
        _element("ContourData", placed.text(corners, k)),
    ]
    content = b"".join(parts)
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def _element(keyword: str, text: str) -> bytes:
    """In implicit little endian."""
    value = text.encode() + b" " * (len(text) % 2)
    tag = _TAGS[keyword]
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


_TAGS = {
    "ContourSequence": 0x30060040,
    "ContourGeometricType": 0x30060042,
    "NumberOfContourPoints": 0x30060046,
    "ContourNumber": 0x30060048,
    "ContourData": 0x30060050,
}


def _encoded(said: Dataset) -> bytes:
    """The elements of a dataset, in implicit little endian."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    file = DicomBytesIO()
    file.is_implicit_VR = file.is_little_endian = True
    write_dataset(file, said)
    return file.getvalue()
