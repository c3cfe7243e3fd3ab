"""`medfuse evaluate --lesions`: counts in the table and in summary.json, which is as it was without."""

import json
import re

import nibabel
import numpy as np
import pytest


@pytest.fixture
def folders(tmp_path):
    """Two cases with three lesions, of which two are found, and one false one."""
    for name, lesion, told in (
        ("a", [(1, 1, 1), (5, 5, 5)], [(1, 1, 1), (8, 1, 1)]),
        ("b", [(2, 2, 2)], [(2, 2, 2)]),
    ):
        for folder, places in (("labels", lesion), ("predictions", told)):
            voxels = np.zeros((10, 10, 10), np.uint8)
            for place in places:
                voxels[place] = 1
            (tmp_path / folder).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / folder / f"{name}.nii.gz")
    return tmp_path / "predictions", tmp_path / "labels"


def summary(folders) -> dict:
    return json.loads((folders[0] / "summary.json").read_text())


def test_they_are_in_the_table_and_in_the_summary(folders, medfuse):
    said = medfuse("evaluate", *folders, "--label", "ms=1", "--lesions", "-q")
    assert said.code == 0
    head, row = said.out.splitlines()[:2]
    assert re.split(r" {2,}", head)[-3:] == ["lesions found", "false", "lesion F1"]
    assert row.split()[-7:-2] == ["2", "of", "3", "1", "0.6667"]
    found = summary(folders)
    assert found["lesions"]["1"]["found"] == 2
    assert [case["lesions"]["1"]["missed"] for case in found["metric_per_case"]] == [1, 0]
    assert "lesions.F1" in found["definitions"]


def test_without_the_option_nothing_of_them_is_said(folders, medfuse):
    said = medfuse("evaluate", *folders, "--label", "ms=1", "-q")
    assert "lesion" not in said.out
    assert "lesion" not in json.dumps(summary(folders))
