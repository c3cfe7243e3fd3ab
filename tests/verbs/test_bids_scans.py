"""A BIDS dataset is an input: which images are meant, what the cases are called, and what cannot be told."""

import json
import shutil
from pathlib import Path

import pytest

from medfuse.core.errors import DataError
from medfuse.verbs.bids_scans import bids_cases, is_dataset


def study(folder: Path, *names: str) -> Path:
    folder.mkdir()
    (folder / "dataset_description.json").write_text("{}")
    for name in names:
        path = folder / name.partition("_")[0] / "anat" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def names(root: Path, *channels: str) -> dict[str, list[str]]:
    return {case.name: [path.name for path in case.images] for case in bids_cases(root, channels)}


def test_images_of_one_suffix_are_meant_whatever_the_channel_is_called(tmp_path):
    root = study(tmp_path / "a", "sub-01_ses-1_T1w", "sub-02_T1w", "sub-02_dseg")
    (root / "derivatives" / "sub-01").mkdir(parents=True)
    (root / "derivatives" / "sub-01" / "sub-01_desc-x_T2w.nii.gz").touch()
    assert names(root, "MRI") == {
        "sub-01_ses-1": ["sub-01_ses-1_T1w.nii.gz"],
        "sub-02": ["sub-02_T1w.nii.gz"],
    }


def test_of_several_suffixes_the_channels_name_is_meant(tmp_path):
    root = study(tmp_path / "a", "sub-01_T1w", "sub-01_FLAIR", "sub-02_T1w", "sub-02_FLAIR")
    assert [*names(root, "t1w").values()] == [["sub-01_T1w.nii.gz"], ["sub-02_T1w.nii.gz"]]
    assert names(root, "FLAIR", "T1w")["sub-01"] == ["sub-01_FLAIR.nii.gz", "sub-01_T1w.nii.gz"]
    with pytest.raises(DataError, match=r"without images called _mri.*FLAIR, T1w.*cases\.csv"):
        names(root, "MRI")


def test_a_channel_that_a_scan_lacks_is_told(tmp_path):
    root = study(tmp_path / "a", "sub-01_T1w", "sub-01_FLAIR", "sub-02_T1w")
    with pytest.raises(DataError, match="scan sub-02 has no image of FLAIR"):
        names(root, "T1w", "FLAIR")


def test_a_folder_of_images_is_none(tmp_path):
    root = study(tmp_path / "a", "sub-01_T1w")
    assert is_dataset(root)
    (root / "b.nii.gz").touch()
    assert not is_dataset(root)
    assert not is_dataset(tmp_path / "none")


def test_infer_takes_a_study(finished_run, medfuse, tmp_path):
    root = study(tmp_path / "a", "sub-01_T1w", "sub-02_T1w")
    for path, image in zip(
        sorted(root.rglob("*.nii.gz")), sorted((finished_run.data / "imagesTr").iterdir())
    ):
        shutil.copy(image, path)
    said = medfuse("infer", finished_run.folder, "-i", root, "-o", tmp_path / "out", "-q")
    assert said.code == 0, said.err
    assert {*json.loads((tmp_path / "out" / "manifest.json").read_text())["cases"]} == {"sub-01", "sub-02"}
