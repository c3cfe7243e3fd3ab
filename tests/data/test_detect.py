"""Which dataset plugin reads a folder."""

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
from phantoms import AFFINE, write_dataset

from medfuse.core.errors import DataError
from medfuse.data.detect import detect


def volume(path, array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)


def image(path, *, air: float = 0.0) -> None:
    volume(path, np.array([[[air, 1.0], [2.0, 3.0]]], np.float32))


def label(path, *values: int) -> None:
    volume(path, np.array([[[0, *values[:1]], [*values[-1:], 0]]], np.uint8))


def test_a_list_of_cases_is_the_decathlons(tmp_path):
    found = detect(write_dataset(tmp_path))
    assert found.settings == {"use": "decathlon", "root": tmp_path}
    assert len(found.info.cases) == 4


def test_a_dataset_json_without_a_list_is_nnunets(tmp_path):
    image(tmp_path / "imagesTr" / "a_0000.nii.gz")
    label(tmp_path / "labelsTr" / "a.nii.gz", 1)
    facts = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "organ": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    assert detect(tmp_path).settings["use"] == "nnunet"


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("imagesTr", "labelsTr")])
def test_two_folders_are_images_and_labels(tmp_path, images, labels):
    for name in "ab":
        image(tmp_path / images / f"{name}.nii.gz")
        label(tmp_path / labels / f"{name}.nii.gz", 2, 5)
    found = detect(tmp_path)
    assert found.settings["use"] == "folder"
    assert found.info.labels == {"background": 0, "label_2": 2, "label_5": 5}


def test_a_folder_per_case_has_the_same_names_in_each(tmp_path):
    for name in "ab":
        image(tmp_path / name / "flair.nii.gz")
        image(tmp_path / name / "t1.nii.gz")
        label(tmp_path / name / "lesions.nii.gz", 1)
    found = detect(tmp_path)
    assert found.info.channels == ("flair", "t1")
    assert found.info.labels == {"background": 0, "label": 1}


def test_a_table_of_cases_is_found_in_its_folder_and_by_its_name(tmp_path):
    image(tmp_path / "scan.nii.gz")
    label(tmp_path / "organ.nii.gz", 1)
    (tmp_path / "list.csv").write_text("case,image,label\na,scan.nii.gz,organ.nii.gz\n")
    assert detect(tmp_path).settings == detect(tmp_path / "list.csv").settings
    assert detect(tmp_path).settings["file"] == "list.csv"


@pytest.mark.parametrize(("air", "channel"), [(-1000.0, "CT"), (0.0, "channel_0")])
def test_air_in_hounsfield_units_is_ct(tmp_path, air, channel):
    image(tmp_path / "images" / "a.nii.gz", air=air)
    label(tmp_path / "labels" / "a.nii.gz", 1)
    assert detect(tmp_path).info.channels == (channel,)


def test_what_is_found_reads_back_as_yaml_says(tmp_path):
    image(tmp_path / "images" / "a.nii.gz")
    label(tmp_path / "labels" / "a.nii.gz", 1)
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
    label(tmp_path / "labels" / "a.nii.gz", 0)
    with pytest.raises(DataError, match=r"a.nii.gz: holds 0 alone, as does each label map that was"):
        detect(tmp_path)


def test_a_folder_per_case_may_spell_endings_as_it_likes(tmp_path):
    for name, ending in (("a", ".nii.gz"), ("b", ".NII.GZ"), ("c", ".nii")):
        image(tmp_path / name / f"flair{ending}")
        label(tmp_path / name / "lesions.nii.gz", 1)
        (tmp_path / name / "._flair.nii.gz").touch()
    found = detect(tmp_path)
    assert [case.name for case in found.info.cases] == ["a", "b", "c"]
    assert found.settings["images"] == ["{case}/flair.*"]
    assert any("3 hidden files" in note for note in found.info.notes)


def test_cases_without_a_label_are_told_and_not_looked_into(tmp_path):
    for name in "abc":
        image(tmp_path / "images" / f"{name}.nii.gz")
    label(tmp_path / "labels" / "a.nii.gz", 3)
    found = detect(tmp_path)
    assert found.info.labels == {"background": 0, "label": 3}
    assert any("2 cases (b, c) have no label" in note for note in found.info.notes)


def test_one_case_in_a_folder_of_its_own_is_a_folder_per_case(tmp_path):
    image(tmp_path / "only" / "t1.nii.gz")
    label(tmp_path / "only" / "mask.nii.gz", 1)
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
