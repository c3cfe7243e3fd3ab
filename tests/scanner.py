"""DICOM series as scanners write them, made of arrays; and of the ways in which they go wrong."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)

CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}
AXIAL = (1, 0, 0, 0, 1, 0)
CORONAL = (1, 0, 0, 0, 0, -1)
SAGITTAL = (0, 1, 0, 0, 0, -1)
_c, _s = np.cos(0.3), np.sin(0.3)
OBLIQUE = (_c, _s, 0, -_s * _c, _c * _c, _s)


def voxels(shape=(12, 10, 7), seed=0, low=-1000, high=1500):
    """Whole numbers (i, j, k) that no two slices share."""
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int16)


def headers(
    array,
    *,
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-20.0, -30.0, 40.0),
    pixel_mm: Sequence[float] = (0.8, 0.7),
    step_mm: float = 2.5,
    step: Sequence[float] | None = None,
    modality: str = "CT",
    patient: str = "P1",
    number: int = 3,
    series: str | None = None,
    study: str | None = None,
    slope: Callable[[int], float] = lambda k: 1,
    intercept: Callable[[int], float] = lambda k: -1024,
    **tags,
) -> list[Dataset]:
    """One for each slice k of (i, j, k): its pixels are what slope and intercept make the voxels of.

    pixel_mm: (i, j). step: from slice to slice, in mm; along the normal by step_mm where it is not given.
    """
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    step = np.cross(row, column) * step_mm if step is None else np.array(step, float)
    series, study, frame = series or generate_uid(), study or generate_uid(), generate_uid()
    made = []
    for k in range(array.shape[2]):
        d = Dataset()
        d.SOPClassUID, d.SOPInstanceUID = CLASSES.get(modality, MRImageStorage), generate_uid()
        d.SeriesInstanceUID, d.StudyInstanceUID, d.FrameOfReferenceUID = series, study, frame
        d.PatientID, d.PatientName, d.StudyDate, d.Modality = patient, "Nobody", "20260102", modality
        d.PatientBirthDate = d.PatientSex = d.AccessionNumber = ""
        d.StudyTime, d.StudyID = "101500", "S1"
        d.ReferringPhysicianName = d.Manufacturer = d.PositionReferenceIndicator = ""
        d.SeriesNumber, d.InstanceNumber, d.SeriesDescription = number, k + 1, "made for tests"
        d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        d.ImageOrientationPatient = [float(f"{x:.10g}") for x in orientation]
        d.ImagePositionPatient = [float(f"{x:.10g}") for x in np.array(origin) + k * step]
        d.PixelSpacing = [pixel_mm[1], pixel_mm[0]]
        d.SliceThickness = float(f"{np.linalg.norm(step):.10g}")
        d.Rows, d.Columns, d.SamplesPerPixel = array.shape[1], array.shape[0], 1
        d.PhotometricInterpretation = "MONOCHROME2"
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
        d.RescaleSlope, d.RescaleIntercept = slope(k), intercept(k)
        stored = np.rint((array[:, :, k].T.astype(float) - intercept(k)) / slope(k)).astype(np.int16)
        d.PixelData = stored.tobytes()
        for name, value in tags.items():
            setattr(d, name, value)
        made.append(d)
    return made


def save(d: Dataset, path: Path, syntax=ExplicitVRLittleEndian) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    d.file_meta = FileMetaDataset()
    d.file_meta.MediaStorageSOPClassUID, d.file_meta.MediaStorageSOPInstanceUID = (
        d.SOPClassUID,
        d.SOPInstanceUID or generate_uid(),
    )
    d.file_meta.TransferSyntaxUID = syntax
    little, implicit = syntax.is_little_endian, syntax.is_implicit_VR
    if not little:
        d.PixelData = np.frombuffer(d.PixelData, "<i2").astype(">i2").tobytes()
    d.save_as(path, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return path


def write(folder: Path, array, *, ending=".dcm", syntax=ExplicitVRLittleEndian, seed=0, **how) -> list[Path]:
    """A series in a folder, whose names are in another order than its slices."""
    made = headers(array, **how)
    order = np.random.default_rng(seed).permutation(len(made))
    return [save(d, folder / f"IM{n:04d}{ending}", syntax) for n, d in zip(order.tolist(), made, strict=True)]


def affine(
    orientation=AXIAL, origin=(-20.0, -30.0, 40.0), pixel_mm=(0.8, 0.7), step_mm=2.5, step=None
) -> np.ndarray:
    """Index (i, j, k) → RAS+ mm of what `headers` makes."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    step = np.cross(row, column) * step_mm if step is None else np.array(step, float)
    made = np.eye(4)
    made[:3] = np.stack([row * pixel_mm[0], column * pixel_mm[1], step, np.array(origin, float)], axis=1)
    return np.diag([-1.0, -1, 1, 1]) @ made


def multi_frame(array, **how) -> Dataset:
    """An enhanced multi-frame CT of the slices of `headers`, its frames in disorder."""
    slices = headers(array, **how)
    order = np.random.default_rng(1).permutation(len(slices)).tolist()
    d = Dataset()
    for name in (
        "PatientID",
        "PatientName",
        "StudyDate",
        "Modality",
        "SeriesInstanceUID",
        "StudyInstanceUID",
    ):
        setattr(d, name, getattr(slices[0], name))
    for name in ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"):
        setattr(d, name, getattr(slices[0], name))
    d.BitsStored, d.HighBit, d.PixelRepresentation, d.SeriesNumber, d.InstanceNumber = 16, 15, 1, 3, 1
    d.SOPClassUID, d.SOPInstanceUID = EnhancedCTImageStorage, generate_uid()
    d.FrameOfReferenceUID, d.NumberOfFrames = slices[0].FrameOfReferenceUID, len(slices)
    d.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = slices[0].PixelSpacing, slices[0].SliceThickness
    orientation.ImageOrientationPatient = slices[0].ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([orientation])
    d.SharedFunctionalGroupsSequence = Items([shared])
    groups = []
    for n in order:
        group, position, scaling = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = slices[n].ImagePositionPatient
        scaling.RescaleSlope, scaling.RescaleIntercept = slices[n].RescaleSlope, slices[n].RescaleIntercept
        scaling.RescaleType = "HU"
        group.PlanePositionSequence = Items([position])
        group.PixelValueTransformationSequence = Items([scaling])
        groups.append(group)
    d.PerFrameFunctionalGroupsSequence = Items(groups)
    d.PixelData = b"".join(slices[n].PixelData for n in order)
    return d


def pipeline(file: Path, root: str, classes: str, **sample) -> Path:
    """A small network for a dataset of four cases in folders beside `file`."""
    extra = "".join(f", {name}: {value}" for name, value in sample.items())
    file.write_text(
        "split: {folds: 4}\n"
        f"data: {{use: folder, root: {root}, classes: {classes}, channels: [CT]}}\n"
        f"sample: {{patch_size: [16, 16, 16], batch_size: 2{extra}}}\n"
        "model:\n  backbones: {encoder: {use: unet_encoder, base_channels: 4}}\n"
        "  fusion: {decoded: {use: unet_decoder, inputs: [encoder.*]}}\n  head: {input: decoded}\n"
        "loss: dice_ce\ntrain: {steps: 2, steps_per_epoch: 2}\ninfer: {runtime: {use: torch}}\n"
    )
    return file
