"""DICOM from a folder to label maps, equal to those of the same scan as NIfTI; what is wrong is a line."""

import zipfile

import nibabel
import numpy as np
import pytest
import scanner

from medfuse.data.detect import detect


@pytest.fixture
def scan(finished_run):
    """A scan of the run's kind as whole numbers, and its file."""
    image = nibabel.load(finished_run.data / "imagesTr" / "cube_00.nii.gz")
    return np.rint(np.asarray(image.dataobj) * 100).astype(np.int16)


def placed(path, array, affine):
    path.parent.mkdir(exist_ok=True, parents=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


HOW = {"pixel_mm": (1.0, 1.0), "step_mm": 1.0}


@pytest.mark.parametrize("plane", [scanner.AXIAL, scanner.CORONAL, scanner.SAGITTAL])
def test_a_series_is_labelled_as_the_same_scan_in_nifti(plane, finished_run, scan, medfuse, tmp_path):
    scanner.write(tmp_path / "dicom" / "patient" / "x", scan, orientation=plane, ending="", **HOW)
    placed(tmp_path / "nifti" / "P1_20260102_3.nii.gz", scan, scanner.affine(plane, **HOW))
    for kind in ("dicom", "nifti"):
        said = medfuse("infer", finished_run.folder, "-i", tmp_path / kind, "-o", tmp_path / f"out_{kind}")
        assert said.code == 0, said.err
    one, other = (nibabel.load(tmp_path / f"out_{k}" / "P1_20260102_3.nii.gz") for k in ("dicom", "nifti"))
    assert np.array_equal(one.dataobj, other.dataobj)
    assert np.asarray(one.dataobj).any()
    assert np.allclose(one.affine, other.affine, atol=1e-4)


def test_a_case_that_was_done_is_skipped_and_one_whose_files_changed_is_not(
    finished_run, scan, medfuse, tmp_path
):
    files = scanner.write(tmp_path / "in", scan, **HOW)
    run = ("infer", finished_run.folder, "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert "1 written" in medfuse(*run).out
    assert "1 were finished already" in medfuse(*run).out
    files[0].touch()
    assert "1 written" in medfuse(*run).out


def test_series_that_cannot_be_used_fail_and_the_others_are_done(finished_run, scan, medfuse, tmp_path):
    scanner.write(tmp_path / "in" / "a", scan, **HOW)
    for file in scanner.write(tmp_path / "in" / "b", scan, number=4, **HOW)[5:7]:
        file.unlink()
    said = medfuse("infer", finished_run.folder, "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert said.code == 2
    assert "1 written" in said.out
    assert "not evenly apart" in said.out
    assert "--uneven resample" in said.out
    run = ("infer", finished_run.folder, "-i", tmp_path / "in", "-o", tmp_path / "out2")
    assert medfuse(*run, "--uneven", "resample").code == 0
    assert medfuse(*run[:-1], tmp_path / "out3", "--series", "SeriesNumber=3").code == 0
    assert [p.name for p in (tmp_path / "out3").glob("*.nii.gz")] == ["P1_20260102_3.nii.gz"]


def test_names_by_hash_say_nobody(finished_run, scan, medfuse, tmp_path):
    files = scanner.write(tmp_path / "in", scan, patient="Doe-John", **HOW)
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    said = medfuse(
        "infer", finished_run.folder, "-i", tmp_path / "scan.zip", "-o", tmp_path / "out", "--name", "hash"
    )
    assert said.code == 0, said.err
    written = [p.name for p in (tmp_path / "out").iterdir()]
    assert not any("Doe" in name for name in written)
    for path in (tmp_path / "out").glob("manifest.*"):
        assert b"Doe" not in path.read_bytes(), path


def test_a_list_of_series_says_what_there_is(scan, medfuse, tmp_path):
    scanner.write(tmp_path / "a", scan, **HOW)
    for file in scanner.write(tmp_path / "b", scan, number=4, modality="MR", **HOW)[5:7]:
        file.unlink()
    said = medfuse("series", tmp_path)
    assert said.code == 0
    assert "P1_20260102_3  CT" in said.out
    assert "P1_20260102_4: cannot be used: " in said.out
    nothing = medfuse("series", tmp_path, "--series", "Modality=PT")
    assert nothing.code == 2
    assert "no DICOM series here that meets the conditions" in nothing.err


def test_training_takes_folders_of_slices_as_images(scan, medfuse, tmp_path):
    """The cases of a dataset in folders may be DICOM; labels on the same grid as NIfTI."""
    for n in range(4):
        scanner.write(tmp_path / "d" / "images" / f"c{n}", np.roll(scan, n, 0), number=n, **HOW)
        label = (np.roll(scan, n, 0) > np.median(scan)).astype(np.uint8)
        placed(tmp_path / "d" / "labels" / f"c{n}.nii.gz", label, scanner.affine(**HOW))
    file = scanner.pipeline(tmp_path / "p.yaml", "d", "{bright: 1}", workers=0)
    said = medfuse("run", file, "--runs", tmp_path / "runs")
    assert said.code == 0, said.err
    assert "mean foreground Dice" in said.out


def test_a_folder_of_nifti_and_dicom_gives_cases_of_both(finished_run, scan, medfuse, tmp_path):
    scanner.write(tmp_path / "in" / "p", scan, ending="", **HOW)
    scanner.write(
        tmp_path / "in" / "p", scan[:, :, :1], ending="_l", ImageType=["A", "B", "LOCALIZER"], **HOW
    )
    placed(tmp_path / "in" / "n.nii.gz", scan, scanner.affine(**HOW))
    run = ("infer", finished_run.folder, "-i", tmp_path / "in", "-o")
    said = medfuse(*run, tmp_path / "out")
    assert "2 written" in said.out
    assert "1 DICOM file (p/IM0000_l) is left out" in said.err
    said = medfuse(*run, tmp_path / "out2", "--series", "Modality=PT")
    assert "1 written" in said.out


def test_a_folder_per_case_with_one_of_slices_in_it_is_a_dataset(scan, tmp_path):
    for n in range(2):
        scanner.write(tmp_path / f"c{n}" / "ct", scan, number=n, **HOW)
        label = (scan > np.median(scan)).astype(np.uint8)
        placed(tmp_path / f"c{n}" / "label.nii.gz", label, scanner.affine(**HOW))
    found = detect(tmp_path)
    assert found.settings["images"] == ["{case}/ct"]
    assert [case.name for case in found.info.cases] == ["c0", "c1"]


def test_what_is_no_image_is_said_and_so_is_a_place_that_is_not_there(finished_run, scan, medfuse, tmp_path):
    scanner.write(tmp_path / "in", scan, ending="", **HOW)
    run = ("infer", finished_run.folder, "-i", tmp_path / "in", "-o", tmp_path / "in")
    assert medfuse(*run, "--format", "dicom_seg,rtstruct").code == 0
    said = medfuse("series", tmp_path / "in").out
    assert "1 file (P1_20260102_3.dcm): SEG, no image" in said
    assert "1 file (P1_20260102_3.rtstruct.dcm): RT Structure Set, no image" in said
    alone = medfuse("series", tmp_path / "in" / "P1_20260102_3.dcm")
    assert (alone.code, "SEG, no image" in alone.err) == (2, True)
    lost = medfuse("series", tmp_path / "lost")
    assert (lost.code, lost.err.strip()) == (2, f"{tmp_path / 'lost'}: no such file; check the path")


@pytest.mark.parametrize("text", ["SliceThickness<=x", "StudyDate>2024-01-01", "SliceThickness<"])
def test_a_condition_that_compares_with_no_number_is_refused(scan, medfuse, tmp_path, text):
    scanner.write(tmp_path / "in", scan, **HOW)
    said = medfuse("series", tmp_path / "in", "--series", text)
    assert said.code == 2
    assert "is no number" in said.err


def test_a_series_that_is_unlike_training_is_named_by_its_folder(finished_run, scan, medfuse, tmp_path):
    scanner.write(tmp_path / "in" / "far", scan, pixel_mm=(9.0, 9.0), step_mm=9.0)
    run = ("infer", finished_run.folder, "-i", tmp_path / "in", "-o", tmp_path / "out", "--strict")
    said = medfuse(*run)
    assert said.code == 2
    assert f"{tmp_path / 'in' / 'far'}: unlike the images of training" in said.out
    assert ".series.json" not in said.out + said.err


def test_a_link_without_a_target_says_so_whatever_is_to_be_written(finished_run, scan, medfuse, tmp_path):
    scanner.write(tmp_path / "in" / "a", scan, **HOW)
    (tmp_path / "in" / "lost").symlink_to("nowhere")
    said = medfuse(
        "infer", finished_run.folder, "-i", tmp_path / "in", "-o", tmp_path / "out", "--format", "dicom_seg"
    )
    assert (said.code, "1 written" in said.out) == (2, True)
    assert "lost: is a link to nowhere, which is not there" in said.out
    assert "is no DICOM series" not in said.out
