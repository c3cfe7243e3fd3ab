"""A SEG on the slices of a series that was resampled is its label: each voxel takes the nearest pixel."""

import json
from copy import deepcopy

import drawn
import nibabel
import numpy as np
import pytest
import scanner
from pydicom.uid import ExplicitVRLittleEndian

from medfuse.core.errors import DataError
from medfuse.core.label_table import entries_of
from medfuse.volumes.dicom.about import About
from medfuse.volumes.dicom.index import index_all, read_index
from medfuse.volumes.dicom.seg import write_seg
from medfuse.volumes.dicom.series import Scans
from medfuse.volumes.label_maps import common_grid, fitted
from medfuse.volumes.read import read_geometry, read_labels, read_volume

SHAPE = (14, 12, 9)
CLASSES = {"background": 0, "liver": 1, "tumour": 2}
LPS = np.array([-1.0, -1, 1])
TILT = (0.0, 0.9, 2.5)
STEPS = {"tilt": TILT, "other tilt": (-0.51, -1.13, 2.5), "small tilt": (0.0, 0.02, 2.5)}


def scan(folder, keep=range(SHAPE[2]), uneven=False, **how):
    """Headers of the slices that are kept, and the volume that they are."""
    slices = [d for k, d in enumerate(scanner.headers(scanner.voxels(SHAPE), **how)) if k in keep]
    for n, d in enumerate(slices):
        scanner.save(d, folder / f"{n}.dcm")
    (image,) = index_all(folder, Scans(uneven=uneven))
    return slices, image


def seg(tmp_path, slices, masks, kind="BINARY"):
    made = drawn.segmentation(slices, masks, kind)
    return scanner.save(made, tmp_path / "seg.dcm", ExplicitVRLittleEndian)


def read(path, image, labels=CLASSES):
    found = fitted({"case": (path, image)}, labels)
    if found.faults:
        raise DataError(*found.faults["case"])
    return read_labels(found.files["case"]), found.notes


def nearest(slices, labels, like, reach_mm):
    """Of each voxel's centre, the label of the nearest pixel of the nearest slice; 0 beyond all of them."""
    made = np.zeros(like.shape, labels.dtype)
    normal = np.cross(slices[0].ImageOrientationPatient[:3], slices[0].ImageOrientationPatient[3:])
    heights = np.array([normal @ np.array(d.ImagePositionPatient, float) for d in slices])
    for voxel in np.ndindex(*like.shape):
        at = (like.affine @ (*voxel, 1))[:3] * LPS
        n = int(np.abs(heights - at @ normal).argmin())
        if abs(heights[n] - at @ normal) > reach_mm:
            continue
        d = slices[n]
        aside = at - np.array(d.ImagePositionPatient, float)
        i = int(np.rint(aside @ np.array(d.ImageOrientationPatient[:3], float) / d.PixelSpacing[1]))
        j = int(np.rint(aside @ np.array(d.ImageOrientationPatient[3:], float) / d.PixelSpacing[0]))
        if 0 <= i < labels.shape[0] and 0 <= j < labels.shape[1]:
            made[voxel] = labels[i, j, n]
    return made


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_slices_that_lean_carry_their_labels_along(step, kind, tmp_path):
    slices, image = scan(tmp_path / "ct", step=step)
    masks = drawn.masks(SHAPE)
    found, notes = read(seg(tmp_path, slices, masks, kind), image)
    like = read_geometry(image)
    assert not found.geometry.differences(like)
    assert np.array_equal(found.array, nearest(slices, drawn.label_map(masks), like, 1.3))
    told = [note for note in notes if "each voxel takes what is nearest of it" in note]
    assert len(told) == (step != STEPS["small tilt"])  # which is no tilt, and is read voxel on voxel


def test_labels_lie_where_the_image_that_they_were_drawn_on_does(tmp_path):
    """Whole pixels from slice to slice: image and labels are moved alike, voxel for voxel."""
    slices, image = scan(tmp_path / "ct", step=(0.0, 1.4, 2.5), pixel_mm=(0.7, 0.7))
    array = scanner.voxels(SHAPE)
    masks = {"liver": array > 300}
    found, _ = read(seg(tmp_path, slices, masks), image, {"background": 0, "liver": 1})
    assert np.array_equal(found.array, read_volume(image).array > 300)
    assert found.array.sum() == masks["liver"].sum()


@pytest.mark.parametrize("gap", [{3, 4}, {3}, {5, 6, 7}])
def test_slices_that_were_resampled_to_even_ones_take_the_nearest_label(gap, tmp_path):
    keep = sorted({*range(SHAPE[2])} - gap)
    slices, image = scan(tmp_path / "ct", keep, uneven=True)
    masks = drawn.masks((*SHAPE[:2], len(keep)))
    masks["tumour"][:] = False
    found, notes = read(seg(tmp_path, slices, masks), image)
    wanted = nearest(slices, drawn.label_map(masks), found.geometry, 99)
    ties = [k for k in range(SHAPE[2]) if _is_tie(k, keep)]
    sure = np.setdiff1d(np.arange(SHAPE[2]), ties)
    assert np.array_equal(found.array[:, :, sure], wanted[:, :, sure])
    for k in ties:
        beside = [drawn.label_map(masks)[:, :, keep.index(k + n)] for n in (-1, 1)]
        assert any(np.array_equal(found.array[:, :, k], one) for one in beside)
    assert "before they were resampled" in notes[0]


def _is_tie(k, keep):
    return k not in keep and k - 1 in keep and k + 1 in keep


def test_pixels_of_another_size_take_the_nearest_where_the_series_is_named(tmp_path):
    slices, image = scan(tmp_path / "ct")
    masks = drawn.masks((SHAPE[0] // 2, SHAPE[1] // 2, SHAPE[2]))
    wide = []
    for d in slices:
        one = deepcopy(d)
        one.Rows, one.Columns = SHAPE[1] // 2, SHAPE[0] // 2
        one.PixelSpacing = [2 * float(x) for x in d.PixelSpacing]
        half = [float(d.PixelSpacing[1]) / 2, float(d.PixelSpacing[0]) / 2, 0]
        one.ImagePositionPatient = [float(x) + h for x, h in zip(d.ImagePositionPatient, half)]
        one.PixelData = bytes(one.Rows * one.Columns * 2)
        wide.append(one)
    found, notes = read(seg(tmp_path, wide, masks), image)
    labels = drawn.label_map(masks)
    assert np.array_equal(found.array, labels.repeat(2, 0).repeat(2, 1))
    assert "lies on another grid than the image" in notes[0]


def test_a_seg_that_leans_is_laid_on_the_same_scan_in_nifti(tmp_path):
    slices, image = scan(tmp_path / "ct", step=TILT)
    volume = read_volume(image)
    nibabel.save(nibabel.Nifti1Image(volume.array, volume.geometry.affine), tmp_path / "ct.nii.gz")
    path = seg(tmp_path, slices, drawn.masks(SHAPE))
    found, _ = read(path, tmp_path / "ct.nii.gz")
    assert np.array_equal(found.array, read(path, image)[0].array)


def test_what_lies_beyond_the_image_is_refused(tmp_path):
    slices, image = scan(tmp_path / "ct", step=TILT)
    for d in slices:
        d.ImagePositionPatient = [float(x) + 500 for x in d.ImagePositionPatient]
    path = seg(tmp_path, slices, drawn.masks(SHAPE))
    with pytest.raises(DataError, match="beyond the image"):
        read(path, image)


def test_a_label_map_that_an_earlier_version_found_is_read(tmp_path):
    slices, image = scan(tmp_path / "ct")
    masks = drawn.masks(SHAPE)
    found = fitted({"case": (seg(tmp_path, slices, masks), image)}, CLASSES).files["case"]
    said = json.loads(found.read_text())
    del said["slices"]
    found.write_text(json.dumps(said))
    assert np.array_equal(read_labels(found).array, drawn.label_map(masks))


def test_a_leaning_seg_and_one_that_stands_are_judged_on_the_grid_of_the_latter(tmp_path):
    slices, image = scan(tmp_path / "ct", step=TILT)
    masks = drawn.masks(SHAPE)
    leaning = seg(tmp_path, slices, masks)
    standing = tmp_path / "out.dcm"
    own = read(leaning, image)[0].array
    write_seg(standing, own, read_index(image), entries_of(CLASSES), About())
    grid = common_grid(leaning, standing)
    assert np.array_equal(read(standing, grid)[0].array, read(leaning, grid)[0].array)
