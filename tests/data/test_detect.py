"""Which dataset plugin reads a folder."""

import json
import os
from pathlib import Path

import drawn
import nibabel
import numpy as np
import pytest
import scanner
from phantoms import AFFINE, write_dataset

from medfuse.core.errors import DataError
from medfuse.data.detect import detect
from medfuse.volumes.read import read_labels


def volume(path, array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)


def image(path, *, air: float = 0.0) -> None:
    volume(path, np.array([[[air, 1.0], [2.0, 3.0]]], np.float32))


def label_map(path, *values: int) -> None:
    volume(path, np.array([[[0, *values[:1]], [*values[-1:], 0]]], np.uint8))


def test_a_list_of_cases_is_the_decathlons(tmp_path):
    found = detect(write_dataset(tmp_path))
    assert found.settings == {"use": "decathlon", "root": tmp_path}
    assert len(found.info.cases) == 4


def test_a_dataset_json_without_a_list_is_nnunets(tmp_path):
    image(tmp_path / "imagesTr" / "a_0000.nii.gz")
    label_map(tmp_path / "labelsTr" / "a.nii.gz", 1)
    facts = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "organ": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    assert detect(tmp_path).settings["use"] == "nnunet"


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("imagesTr", "labelsTr")])
def test_two_folders_are_images_and_labels(tmp_path, images, labels):
    for name in "ab":
        image(tmp_path / images / f"{name}.nii.gz")
        label_map(tmp_path / labels / f"{name}.nii.gz", 2, 5)
    found = detect(tmp_path)
    assert found.settings["use"] == "folder"
    assert found.info.labels == {"background": 0, "label_2": 2, "label_5": 5}


def test_a_folder_per_case_has_the_same_names_in_each(tmp_path):
    for name in "ab":
        image(tmp_path / name / "flair.nii.gz")
        image(tmp_path / name / "t1.nii.gz")
        label_map(tmp_path / name / "lesions.nii.gz", 1)
    found = detect(tmp_path)
    assert found.info.channels == ("flair", "t1")
    assert found.info.labels == {"background": 0, "label": 1}


def test_a_table_of_cases_is_found_in_its_folder_and_by_its_name(tmp_path):
    image(tmp_path / "scan.nii.gz")
    label_map(tmp_path / "organ.nii.gz", 1)
    (tmp_path / "list.csv").write_text("case,image,label\na,scan.nii.gz,organ.nii.gz\n")
    assert detect(tmp_path).settings == detect(tmp_path / "list.csv").settings
    assert detect(tmp_path).settings["file"] == "list.csv"


@pytest.mark.parametrize(("air", "channel"), [(-1000.0, "CT"), (0.0, "channel_0")])
def test_air_in_hounsfield_units_is_ct(tmp_path, air, channel):
    image(tmp_path / "images" / "a.nii.gz", air=air)
    label_map(tmp_path / "labels" / "a.nii.gz", 1)
    assert detect(tmp_path).info.channels == (channel,)


def test_what_is_found_reads_back_as_yaml_says(tmp_path):
    image(tmp_path / "images" / "a.nii.gz")
    label_map(tmp_path / "labels" / "a.nii.gz", 1)
    from medfuse import registry

    settings = dict(detect(tmp_path).settings)
    plugin = registry.get("medfuse.datasets", settings.pop("use"))(**settings)
    assert plugin.read() == detect(tmp_path).info


def test_a_folder_of_anything_else_says_what_is_known(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="folders `images` and `labels`"):
        detect(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        detect(tmp_path / "none")


def test_label_maps_without_a_label_are_refused(tmp_path):
    image(tmp_path / "images" / "a.nii.gz")
    label_map(tmp_path / "labels" / "a.nii.gz", 0)
    with pytest.raises(DataError, match=r"a.nii.gz: holds 0 alone, as does each label map that was"):
        detect(tmp_path)


def test_a_folder_per_case_may_spell_endings_as_it_likes(tmp_path):
    for name, ending in (("a", ".nii.gz"), ("b", ".NII.GZ"), ("c", ".nii")):
        image(tmp_path / name / f"flair{ending}")
        label_map(tmp_path / name / "lesions.nii.gz", 1)
        (tmp_path / name / "._flair.nii.gz").touch()
    found = detect(tmp_path)
    assert [case.name for case in found.info.cases] == ["a", "b", "c"]
    assert found.settings["images"] == ["{case}/flair.*"]
    assert any("3 hidden files" in note for note in found.info.notes)


def test_cases_without_a_label_are_told_and_not_looked_into(tmp_path):
    for name in "abc":
        image(tmp_path / "images" / f"{name}.nii.gz")
    label_map(tmp_path / "labels" / "a.nii.gz", 3)
    found = detect(tmp_path)
    assert found.info.labels == {"background": 0, "label": 3}
    assert any("2 cases (b, c) have no label" in note for note in found.info.notes)


def test_one_case_in_a_folder_of_its_own_is_a_folder_per_case(tmp_path):
    image(tmp_path / "only" / "t1.nii.gz")
    label_map(tmp_path / "only" / "mask.nii.gz", 1)
    assert [case.name for case in detect(tmp_path).info.cases] == ["only"]
    image(tmp_path / "other" / "t2.nii.gz")
    with pytest.raises(DataError, match="is no dataset that medfuse knows"):
        detect(tmp_path)


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cases.csv")
    with pytest.raises(DataError, match="is a named pipe"):
        detect(tmp_path / "cases.csv")
    with pytest.raises(DataError, match="is no dataset that medfuse knows"):
        detect(tmp_path)


def bids(root, *subjects, channels=("T1w", "FLAIR"), label="dseg", values=(1, 2), other_grid=()):
    for subject in subjects:
        for channel in channels:
            image(root / subject / "anat" / f"{subject}_{channel}.nii.gz")
        for channel in other_grid:
            path = root / subject / "anat" / f"{subject}_{channel}.nii.gz"
            volume_of = nibabel.Nifti1Image(np.zeros((3, 3, 3), np.float32), np.eye(4))
            nibabel.save(volume_of, path)
        below = root / "derivatives" / "manual" / subject / "anat"
        label_map(below / f"{subject}_{label}.nii.gz", *values)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')


def test_bids_takes_the_images_on_the_label_maps_grid_and_names_of_its_table(tmp_path):
    bids(tmp_path, "sub-1", "sub-2", other_grid=("T2w",))
    table = tmp_path / "derivatives" / "manual" / "dseg.tsv"
    table.write_text("index\tname\n1\tleft\n2\tright\n")
    found = detect(tmp_path)
    assert found.settings == {"use": "bids", "root": tmp_path, "images": ["T1w", "FLAIR"], "labels": "dseg"}
    assert found.info.labels == {"background": 0, "left": 1, "right": 2}


def test_bids_without_names_has_the_values_of_its_label_maps(tmp_path):
    bids(tmp_path, "sub-1", channels=("T2w",), label="T2w_label-cord_seg", values=(3,))
    found = detect(tmp_path)
    assert (found.settings["images"], found.settings["labels"]) == (["T2w"], "label-cord_seg")
    assert found.info.labels == {"background": 0, "label": 3}


def test_of_several_label_maps_the_whole_segmentation_is_taken_and_a_brain_mask_last(tmp_path):
    bids(tmp_path, "sub-1", label="desc-brain_mask")
    assert detect(tmp_path).settings["labels"] == "desc-brain_mask"
    bids(tmp_path, "sub-1", label="label-lesion_mask", values=(1,))
    found = detect(tmp_path)
    assert found.settings["labels"] == "label-lesion_mask"
    assert found.info.labels == {"background": 0, "lesion": 1}


def test_bids_without_label_maps_is_no_dataset_to_train_on(tmp_path):
    image(tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii.gz")
    (tmp_path / "dataset_description.json").write_text("{}")
    with pytest.raises(DataError, match="BIDS with label maps"):
        detect(tmp_path)


def test_a_real_bids_folder_is_read(real_data):
    found = detect(real_data / "spleen_bids")
    assert found.settings["use"] == "bids"
    assert found.info.channels == ("CT",)
    assert found.info.cases[0].label.name == "sub-spleen2_ct_seg-manual.nii.gz"


SHAPE = (12, 10, 7)


def dicom_case(folder, seed, *, inner="", **how):
    """Slices in a folder, of which the label is `drawn.masks`."""
    slices = scanner.headers(scanner.voxels(SHAPE, seed=seed), patient=f"P{seed}", **how)
    for n, d in enumerate(slices):
        scanner.save(d, folder / inner / f"IM{n:04d}.dcm")
    return slices


def drawn_masks(seed):
    return drawn.masks(SHAPE, names=("Liver", "Tumour"), seed=seed)


def label_beside(path, slices, seed, kind):
    """The label of a case as SEG, RTSTRUCT, NIfTI or NRRD."""
    masks = drawn_masks(seed)
    if kind == "seg":
        scanner.save(drawn.segmentation(slices, masks), path.with_name(f"{path.name}.dcm"))
    elif kind == "rtstruct":
        square = np.array([[-18.0, -27, 0], [-14, -27, 0], [-14, -24, 0], [-18, -24, 0]])
        contours = [square + np.array([0, 0, float(d.ImagePositionPatient[2])]) for d in slices[2:5]]
        scanner.save(drawn.structures(slices, {"Liver": contours}), path.with_name(f"{path.name}.dcm"))
    elif kind == "nrrd":
        itk = pytest.importorskip("SimpleITK", reason="SimpleITK writes the NRRD of this test")
        made = itk.GetImageFromArray(drawn.label_map(masks).astype(np.uint8).transpose(2, 1, 0))
        made.SetSpacing((0.8, 0.7, 2.5))
        made.SetOrigin((-20.0, -30.0, 40.0))
        path.parent.mkdir(parents=True, exist_ok=True)
        itk.WriteImage(made, str(path.with_name(f"{path.name}.nrrd")))
    else:
        made = nibabel.Nifti1Image(drawn.label_map(masks).astype(np.uint8), scanner.affine())
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(made, path.with_name(f"{path.name}.nii.gz"))


LAYOUTS = {
    "a folder per case": lambda root, n, slot: (root / f"c{n}", "", root / f"c{n}" / "label"),
    "called after cases": lambda root, n, slot: (root / f"c{n}", "", root / f"c{n}" / f"c{n}_seg"),
    "slices deeper": lambda root, n, slot: (root / f"c{n}", f"study{n}/{slot}", root / f"c{n}" / "organs"),
    "images and labels": lambda root, n, slot: (root / "images" / f"c{n}", "", root / "labels" / f"c{n}"),
    "deep images and labels": lambda root, n, slot: (
        root / "images" / f"c{n}",
        f"2026/{slot}",
        root / "labels" / f"c{n}",
    ),
}


@pytest.mark.parametrize("kind", ["seg", "rtstruct", "nifti", "nrrd"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dicom_is_found_with_its_labels(layout, kind, tmp_path):
    for n in range(2):
        folder, inner, label_path = LAYOUTS[layout](tmp_path, n, f"ct{n}")
        slices = dicom_case(folder, n, inner=inner)
        label_beside(label_path, slices, n, kind)
    found = detect(tmp_path)
    assert [case.name for case in found.info.cases] == ["c0", "c1"]
    assert [case.patient for case in found.info.cases] == ["P0", "P1"]
    assert found.info.channels == ("CT",)
    named = kind in ("seg", "rtstruct")
    assert ("Liver" in found.info.labels) == named
    for n, case in enumerate(found.info.cases):
        read = read_labels(case.label).array
        assert read.any()
        if kind != "rtstruct":
            assert np.array_equal(read, drawn.label_map(drawn_masks(n)))


@pytest.mark.parametrize("use", ["nnunet", "decathlon"])
def test_described_datasets_take_dicom(use, tmp_path):
    entries = []
    for n in range(2):
        number = "_0000" if use == "nnunet" else ""
        slices = dicom_case(tmp_path / "imagesTr" / f"c{n}{number}", n)
        label_beside(tmp_path / "labelsTr" / f"c{n}", slices, n, "seg")
        entries.append({"image": f"imagesTr/c{n}{number}", "label": f"labelsTr/c{n}.dcm"})
    said = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "tumour": 2}}
    listed = {"training": entries} if use == "decathlon" else {}
    (tmp_path / "dataset.json").write_text(json.dumps(said | listed))
    found = detect(tmp_path)
    assert found.settings["use"] == use
    assert [case.name for case in found.info.cases] == ["c0", "c1"]
    for n, case in enumerate(found.info.cases):
        assert np.array_equal(read_labels(case.label).array, drawn.label_map(drawn_masks(n)))
    assert found.info.notes == ()


def test_what_was_looked_for_is_told_dicom_too(tmp_path):
    (tmp_path / "c0").mkdir()
    with pytest.raises(
        DataError, match=r"DICOM slices and a SEG, an RTSTRUCT or a label map; it holds no DICOM"
    ):
        detect(tmp_path)
    dicom_case(tmp_path / "c0", 0)
    with pytest.raises(DataError, match="it holds DICOM, but no such label maps"):
        detect(tmp_path)


def test_a_series_says_its_modality_whatever_its_voxels_hold(tmp_path):
    for n in range(2):
        slices = dicom_case(tmp_path / f"c{n}", n, modality="MR")
        label_beside(tmp_path / f"c{n}" / "label", slices, n, "nifti")
    assert detect(tmp_path).info.channels == ("channel_0",)


def test_subjects_below_other_folders_are_bids_too(tmp_path):
    bids(tmp_path / "training" / "R001", "sub-1", "sub-2")
    (tmp_path / "training" / "R001" / "dataset_description.json").unlink()
    assert [case.name for case in detect(tmp_path).info.cases] == ["sub-1", "sub-2"]
