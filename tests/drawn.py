"""SEG as highdicom writes it and RTSTRUCT as planning systems do, of arrays, for a series of `scanner`."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import scanner
from pydicom import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import RTStructureSetStorage, generate_uid


def segmentation(slices: Sequence[Dataset], masks: Mapping[str, np.ndarray], kind="BINARY", **how) -> Dataset:
    """A SEG of masks (i, j, k), its segments numbered from 1; `slices` are those of `scanner.headers`."""
    hd = pytest.importorskip("highdicom", reason="highdicom writes the SEGs of this test")
    from pydicom.sr.codedict import codes

    described = [
        hd.seg.SegmentDescription(
            segment_number=n,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type="MANUAL",
        )
        for n, name in enumerate(masks, 1)
    ]
    pixels = np.stack([mask.transpose(2, 1, 0) for mask in masks.values()], -1)
    if kind == "LABELMAP":
        pixels = (pixels * np.arange(1, len(masks) + 1)).max(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the patient's name
        return hd.seg.Segmentation(
            source_images=list(slices),
            pixel_array=pixels.astype(np.float32 if kind == "FRACTIONAL" else np.uint8),
            segmentation_type=kind,
            segment_descriptions=described,
            series_instance_uid=generate_uid(),
            series_number=9,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="nobody",
            manufacturer_model_name="none",
            software_versions="1",
            device_serial_number="1",
            **how,
        )


def structures(
    slices: Sequence[Dataset], regions: Mapping[str, Sequence[np.ndarray]], kind="CLOSED_PLANAR"
) -> Dataset:
    """An RTSTRUCT of contours (n, 3) in mm towards left, back and head, its regions numbered from 1."""
    d = Dataset()
    d.SOPClassUID, d.SOPInstanceUID = RTStructureSetStorage, generate_uid()
    d.Modality, d.PatientID, d.StudyInstanceUID = "RTSTRUCT", "P1", slices[0].StudyInstanceUID
    d.SeriesInstanceUID = generate_uid()
    image, series, study, space = Dataset(), Dataset(), Dataset(), Dataset()
    image.ReferencedSOPInstanceUID = slices[0].SOPInstanceUID
    series.SeriesInstanceUID = slices[0].SeriesInstanceUID
    series.ContourImageSequence = Items([image])
    study.RTReferencedSeriesSequence = Items([series])
    space.FrameOfReferenceUID = slices[0].FrameOfReferenceUID
    space.RTReferencedStudySequence = Items([study])
    d.ReferencedFrameOfReferenceSequence = Items([space])
    named, drawn = [], []
    for number, (name, contours) in enumerate(regions.items(), 1):
        region, drawing = Dataset(), Dataset()
        region.ROINumber, region.ROIName = number, name
        drawing.ReferencedROINumber, made = number, []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            contour.ContourData = [f"{x:.6f}" for x in np.ravel(points)]
            made.append(contour)
        drawing.ContourSequence = Items(made)
        named.append(region)
        drawn.append(drawing)
    d.StructureSetROISequence, d.ROIContourSequence = Items(named), Items(drawn)
    return d


def series(folder: Path, shape=(12, 10, 7), **how) -> tuple[list[Dataset], Path]:
    """A series in a folder, and its headers."""
    slices = scanner.headers(scanner.voxels(shape), **how)
    for n, d in enumerate(slices):
        scanner.save(d, folder / f"IM{n:04d}")
    return slices, folder


def masks(shape=(12, 10, 7), names=("liver", "tumour"), seed=1) -> dict[str, np.ndarray]:
    """Some voxels each, none of two; some slices of the first are empty."""
    values = np.random.default_rng(seed).integers(0, len(names) + 3, shape)
    values[:, :, 1] = 0
    return {name: values == n for n, name in enumerate(names, 1)}


def label_map(masks: Mapping[str, np.ndarray]) -> np.ndarray:
    return sum(mask * n for n, mask in enumerate(masks.values(), 1))
