"""Contours along the edges of voxels are the mask that they were traced from, whoever fills them."""

import shutil
import subprocess

import drawn
import nibabel
import numpy as np
import pytest
import scanner
from elsewhere import DATA, READERS
from pydicom import dcmread

from medfuse.core.label_table import entries_of
from medfuse.volumes.dicom.about import About
from medfuse.volumes.dicom.contours import filled, traced
from medfuse.volumes.dicom.index import as_volume_file, read_index
from medfuse.volumes.dicom.rtstruct import write_rtstruct
from medfuse.volumes.label_maps import fitted
from medfuse.volumes.read import read_geometry, read_labels

FOREIGN = READERS / "bin" / "python"
REAL = DATA / "ct_torso"
PLANES = {
    "axial": scanner.AXIAL,
    "coronal": scanner.CORONAL,
    "sagittal": scanner.SAGITTAL,
    "oblique": scanner.OBLIQUE,
}
FLIPS = [(a, b, c) for a in (1, -1) for b in (1, -1) for c in (1, -1)]
"""Which way rows, columns and slices run: 8 orientations of each plane."""


def turned(plane, flips):
    """How a series of such an orientation is made: its rows, columns and steps, each turned round or not."""
    row, column = np.array(plane[:3], float), np.array(plane[3:], float)
    rows, columns, slices = flips
    return {"orientation": (*rows * row, *columns * column), "step": 2.5 * slices * np.cross(row, column)}


def filled_again(mask):
    found = {}
    for k, corners in traced(mask):
        assert len(corners) >= 4
        assert (np.abs(corners % 1) == 0.5).all()
        steps = np.roll(corners, -1, axis=0) - corners
        assert ((steps != 0).sum(axis=1) == 1).all()  # along one axis, and never in place
        found.setdefault(k, []).append(corners)
    made = np.zeros_like(mask)
    for k, contours in found.items():
        made[:, :, k] = filled(contours, mask.shape[:2])
    return made


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.6, 0.8, 0.98])
def test_random_masks_come_back(share):
    random = np.random.default_rng(int(100 * share))
    for _ in range(20):
        mask = random.random(random.integers(1, 14, 3)) < share
        assert np.array_equal(filled_again(mask), mask)


@pytest.mark.parametrize("share", [0.4, 0.6, 0.7])
def test_a_large_random_mask_comes_back(share):
    mask = np.random.default_rng(0).random((300, 280, 2)) < share
    assert np.array_equal(filled_again(mask), mask)


def test_very_many_lines_across_a_slice_are_filled_in_parts(monkeypatch):
    mask = np.random.default_rng(3).random((60, 50, 1)) < 0.5
    contours = [corners for _, corners in traced(mask)]
    whole = filled(contours, (60, 50))
    monkeypatch.setattr("medfuse.volumes.dicom.contours._AT_ONCE", 70)
    assert np.array_equal(filled(contours, (60, 50)), whole)
    assert np.array_equal(whole, mask[:, :, 0])


def test_islands_in_holes_in_islands_come_back():
    i, j = np.indices((41, 43))
    rings = np.maximum(abs(i - 20), abs(j - 21)) % 4 < 2
    assert np.array_equal(filled_again(rings[:, :, None]), rings[:, :, None])


def test_a_part_with_holes_is_one_contour():
    mask = np.ones((9, 9, 1), bool)
    mask[2, 2], mask[6, 2:5], mask[4, 4] = False, False, False
    assert len(list(traced(mask))) == 1


def test_voxels_that_share_a_corner_are_two_contours():
    assert len(list(traced(np.eye(2, dtype=bool)[:, :, None]))) == 2


def test_nothing_has_no_contour():
    assert list(traced(np.zeros((3, 4, 5), bool))) == []


def puzzle(shape=(23, 19, 5), seed=0):
    """Labels that touch, with holes in one filled by another, islands in holes, and single voxels."""
    i, j, k = np.indices(shape)
    labels = np.where(np.hypot(i - 10, j - 9) < 8, 1, 0)
    labels[np.hypot(i - 10, j - 9) < 5] = 2
    labels[np.hypot(i - 10, j - 9) < 3] = 0
    labels[(i == 10) & (j == 9)] = 3
    labels[(i > 17) & (k > 2)] = 4
    labels[np.random.default_rng(seed).random(shape) < 0.03] = 5
    labels[:, :, 1] = 0
    return labels.astype(np.uint8)


NAMES = {"background": 0, "liver": 1, "tumour": 2, "vessel": 3, "wall": 4, "speckle": 5, "nowhere": 6}
ENTRIES = entries_of(NAMES)
ABOUT = About("a run", "1.0", ("ab" * 32,))


def written(folder, labels, path, entries=ENTRIES):
    image = as_volume_file(folder)
    said = write_rtstruct(path, labels, read_index(image), entries, ABOUT)
    return image, said


def again(path, image, labels=NAMES):
    found = fitted({"case": (path, image)}, labels)
    assert not found.faults, found.faults
    return read_labels(found.files["case"]).array


@pytest.mark.parametrize("flips", FLIPS, ids=str)
@pytest.mark.parametrize("plane", PLANES)
def test_a_label_map_comes_back_in_every_orientation(plane, flips, tmp_path):
    drawn.series(tmp_path / "ct", (23, 19, 5), **turned(PLANES[plane], flips))
    image, said = written(tmp_path / "ct", puzzle(), tmp_path / "rs.dcm")
    assert np.array_equal(again(tmp_path / "rs.dcm", image), puzzle())
    assert said["absent"] == ["nowhere"]


SCRIPT = """
import logging, sys
import pydicom
pydicom.read_file = pydicom.dcmread  # as it was called when that reader was written
logging.disable(logging.CRITICAL)
from dcmrtstruct2nii import dcmrtstruct2nii
for folder in sys.argv[1:]:
    dcmrtstruct2nii(f"{folder}/rs.dcm", f"{folder}/ct", f"{folder}/out", gzip=False)
"""


def filled_by_another(folders):
    """By dcmrtstruct2nii, in its own environment."""
    ran = subprocess.run(
        [FOREIGN, "-c", SCRIPT, *folders], capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stderr


foreign = pytest.mark.skipif(
    not FOREIGN.exists(),
    reason=f"{FOREIGN} is not there, which has a foreign reader: MEDFUSE_TEST_READERS",
)


@pytest.mark.slow
@foreign
@pytest.mark.parametrize("plane", PLANES)
def test_another_reader_fills_the_same_voxels(plane, tmp_path):
    images = {}
    for n, flips in enumerate(FLIPS):
        folder = tmp_path / str(n)
        drawn.series(folder / "ct", (23, 19, 5), **turned(PLANES[plane], flips))
        images[folder], _ = written(folder / "ct", puzzle(seed=n), folder / "rs.dcm")
    filled_by_another(images)
    for n, (folder, image) in enumerate(images.items()):
        for name in ("liver", "tumour", "vessel", "wall", "speckle"):
            found = read_labels(folder / "out" / f"mask_{name}.nii")
            assert np.array_equal(on_grid(found, image), puzzle(seed=n) == NAMES[name]), (FLIPS[n], name)


def on_grid(volume, image):
    """The mask as (i, j, k) of the image, whose axes may run the other way."""
    steps = np.linalg.solve(read_geometry(image).affine, volume.geometry.affine)
    ways = np.rint(np.diag(steps)[:3]).astype(int)
    assert np.allclose(steps[:3, :3], np.diag(ways), atol=1e-3)
    return volume.array[:: ways[0], :: ways[1], :: ways[2]] != 0


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)], ids=str)
def test_contours_fill_an_image_whose_axes_are_others(axes, tmp_path):
    """The slices of the series are planes along another axis, counted from its other end."""
    drawn.series(tmp_path / "ct", (23, 19, 5), orientation=scanner.OBLIQUE)
    image, _ = written(tmp_path / "ct", puzzle(), tmp_path / "rs.dcm")
    turn = np.eye(4)[:, [*axes, 3]]
    turn[:, 0] *= -1
    turn[axes[0], 3] = (23, 19, 5)[axes[0]] - 1
    other = puzzle().transpose(axes)[::-1]
    made = nibabel.Nifti1Image(np.ascontiguousarray(other), read_geometry(image).affine @ turn)
    nibabel.save(made, tmp_path / "other.nii")
    assert np.array_equal(again(tmp_path / "rs.dcm", tmp_path / "other.nii"), other)


def test_it_says_whose_it_is(tmp_path):
    slices, folder = drawn.series(tmp_path / "ct", (23, 19, 5))
    written(folder, puzzle(), tmp_path / "rs.dcm")
    said = dcmread(tmp_path / "rs.dcm")
    assert (said.PatientID, said.StudyInstanceUID) == ("P1", slices[0].StudyInstanceUID)
    (space,) = said.ReferencedFrameOfReferenceSequence
    assert space.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    (series,) = space.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == slices[0].SeriesInstanceUID
    assert len(series.ContourImageSequence) == 5
    assert [r.ROIName for r in said.StructureSetROISequence] == [
        "liver",
        "tumour",
        "vessel",
        "wall",
        "speckle",
    ]
    uids = {d.SOPInstanceUID: d.ImagePositionPatient[2] for d in slices}
    for region, entry in zip(said.ROIContourSequence, ENTRIES, strict=False):
        assert tuple(region.ROIDisplayColor) == entry.rgb
        for contour in region.ContourSequence:
            (image,) = contour.ContourImageSequence
            heights = {float(z) for z in contour.ContourData[2::3]}
            assert heights == {float(uids[image.ReferencedSOPInstanceUID])}
            assert contour.NumberOfContourPoints == len(contour.ContourData) // 3 >= 4
            assert max(len(x.original_string) for x in contour.ContourData) <= 16


def test_the_same_labels_are_the_same_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    drawn.series(tmp_path / "ct", (23, 19, 5))
    for name in ("a.dcm", "b.dcm"):
        written(tmp_path / "ct", puzzle(), tmp_path / name)
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    written(tmp_path / "ct", puzzle(seed=1), tmp_path / "b.dcm")
    one, two = (dcmread(tmp_path / name).SOPInstanceUID for name in ("a.dcm", "b.dcm"))
    assert one != two


def test_a_series_without_most_tags_has_structures_too(tmp_path):
    slices = scanner.headers(scanner.voxels((23, 19, 5)))
    for k, d in enumerate(slices):
        for name in ("PatientName", "PatientID", "StudyDate", "StudyInstanceUID", "FrameOfReferenceUID"):
            delattr(d, name)
        scanner.save(d, tmp_path / "ct" / f"{k}.dcm")
    image, _ = written(tmp_path / "ct", puzzle(), tmp_path / "rs.dcm")
    assert np.array_equal(again(tmp_path / "rs.dcm", image), puzzle())


def test_an_empty_label_map_is_a_structure_set_without_contours(tmp_path):
    drawn.series(tmp_path / "ct", (23, 19, 5))
    image, said = written(tmp_path / "ct", np.zeros((23, 19, 5), np.uint8), tmp_path / "rs.dcm")
    assert said["contours"] == 0
    assert not again(tmp_path / "rs.dcm", image).any()


def test_regions_are_outlined_whole(tmp_path):
    names = {"background": 0, "whole": (1, 2, 3), "core": (2, 3), "enhancing": 3}
    drawn.series(tmp_path / "ct", (23, 19, 5))
    labels = np.where(puzzle() > 3, 0, puzzle()).astype(np.uint8)
    image, _ = written(
        tmp_path / "ct", labels, tmp_path / "rs.dcm", entries_of(names, region_order=(1, 2, 3))
    )
    assert np.array_equal(again(tmp_path / "rs.dcm", image, names), labels)
    assert np.array_equal(again(tmp_path / "rs.dcm", image, {"background": 0, "core": 7}), 7 * (labels > 1))


def test_large_values_are_regions_too(tmp_path):
    drawn.series(tmp_path / "ct", (23, 19, 5))
    labels = np.where(puzzle() > 4, 0, puzzle()).astype(np.uint32) * 1_000_000_000
    names = {"background": 0, **{f"n{n}": n * 1_000_000_000 for n in range(1, 5)}}
    image, _ = written(tmp_path / "ct", labels, tmp_path / "rs.dcm", entries_of(names))
    assert np.array_equal(again(tmp_path / "rs.dcm", image, names), labels)


@pytest.mark.parametrize("kind", ["tilted", "uneven"])
def test_resampled_slices_refer_to_images_that_lie_in_them(kind, tmp_path):
    from medfuse.volumes.dicom.index import index_all
    from medfuse.volumes.dicom.series import Scans

    how = {"step": (0, 0.8, 2.5)} if kind == "tilted" else {}
    slices, folder = drawn.series(tmp_path / "ct", (23, 19, 9), **how)
    if kind == "uneven":
        for k in (3, 6):
            (folder / f"IM{k:04d}").unlink()
    (image,) = index_all(folder, Scans(uneven=True))
    index = read_index(image)
    labels = np.ones(index.shape, np.uint8)
    write_rtstruct(tmp_path / "rs.dcm", labels, index, entries_of({"a": 1}), ABOUT)
    assert np.array_equal(again(tmp_path / "rs.dcm", image, {"background": 0, "a": 1}), labels)
    places = {d.SOPInstanceUID: float(d.ImagePositionPatient[2]) for d in slices}
    for contour in dcmread(tmp_path / "rs.dcm").ROIContourSequence[0].ContourSequence:
        for named in contour.get("ContourImageSequence", []):
            assert places[named.ReferencedSOPInstanceUID] == pytest.approx(float(contour.ContourData[2]))
    named = [
        c
        for c in dcmread(tmp_path / "rs.dcm").ROIContourSequence[0].ContourSequence
        if "ContourImageSequence" in c
    ]
    assert len(named) == (9 if kind == "tilted" else 7)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools are not installed")
def test_dicom3tools_find_no_error(tmp_path):
    drawn.series(tmp_path / "ct", (23, 19, 5))
    written(tmp_path / "ct", puzzle(), tmp_path / "rs.dcm")
    ran = subprocess.run(["dciodvfy", tmp_path / "rs.dcm"], capture_output=True, text=True, check=False)
    assert "RTStructureSet" in ran.stdout + ran.stderr
    assert [line for line in (ran.stdout + ran.stderr).splitlines() if line.startswith("Error")] == []


real = pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not there")


@pytest.mark.slow
@real
def test_organs_of_a_torso_come_back(tmp_path):
    labels = read_labels(REAL / "organs_model_output.nii.gz").array
    drawn.series(tmp_path / "ct", labels.shape)
    names = {f"organ {value}": value for value in np.unique(labels).tolist()}
    image, _ = written(tmp_path / "ct", labels, tmp_path / "rs.dcm", entries_of(names))
    assert np.array_equal(again(tmp_path / "rs.dcm", image, names), labels)


@pytest.mark.slow
@real
@foreign
def test_organs_on_a_real_series_are_the_same_to_another_reader(tmp_path):
    """A mask that is stored with its rows the other way round."""
    labels = read_labels(REAL / "dicom_series_model_output_flipped_y.nii.gz")
    image = as_volume_file(REAL / "dicom_series")
    steps = np.linalg.solve(read_geometry(image).affine, labels.geometry.affine)
    ways = np.rint(np.diag(steps)[:3]).astype(int)
    array = labels.array[:: ways[0], :: ways[1], :: ways[2]]
    assert array.shape == read_geometry(image).shape
    names = {f"organ {value}": value for value in np.unique(array).tolist()}
    (tmp_path / "ct").symlink_to(REAL / "dicom_series")
    write_rtstruct(tmp_path / "rs.dcm", array, read_index(image), entries_of(names), ABOUT)
    assert np.array_equal(again(tmp_path / "rs.dcm", image, names), array)
    filled_by_another([tmp_path])
    for name, value in names.items():
        if value:
            found = read_labels(tmp_path / "out" / f"mask_{name.replace(' ', '-')}.nii")
            assert np.array_equal(on_grid(found, image), array == value), name
