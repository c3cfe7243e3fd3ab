"""Nothing that a folder holds vanishes without a word, and a case that cannot be done is exit code 2."""

import shutil

import pytest
from phantoms import write_dataset, write_pipeline


@pytest.fixture
def scans(finished_run, tmp_path):
    """A folder with one image, a link that leads nowhere, and files that are not read."""
    folder = tmp_path / "scans"
    folder.mkdir()
    shutil.copy(finished_run.data / "imagesTr" / "cube_00.nii.gz", folder / "a.NII.GZ")
    (folder / "b.nii.gz").symlink_to("../archive/not-fetched")
    (folder / "1.dcm").touch()
    return folder


def test_infer_does_the_others_names_the_link_and_fails(finished_run, scans, medfuse, tmp_path):
    said = medfuse("infer", finished_run.folder, "-i", scans, "-o", tmp_path / "out")
    assert said.code == 2
    assert (tmp_path / "out" / "a.nii.gz").is_file()
    assert "b.nii.gz: is a link to ../archive/not-fetched, which is not there" in said.out
    assert "1 DICOM file (1.dcm) is left out" in said.err


def test_what_cannot_be_done_fails_with_explain_too(finished_run, scans, medfuse):
    said = medfuse("infer", finished_run.folder, "-i", scans, "--explain")
    assert said.code == 2
    assert "b: " in said.out
    (scans / "b.nii.gz").unlink()
    assert medfuse("infer", finished_run.folder, "-i", scans, "--explain").code == 0


def test_a_run_says_what_it_does_not_use_and_will_not_learn(medfuse, tmp_path, monkeypatch):
    """One line each, before training: files, cases outside the split, absent labels, a small budget."""
    monkeypatch.chdir(tmp_path)
    data = write_dataset(tmp_path / "cubes", cases=5)
    (data / "imagesTr" / "x.mgz").touch()
    listing = (data / "dataset.json").read_text().replace('"1": "cube"', '"1": "cube", "2": "gone"')
    (data / "dataset.json").write_text(listing)
    names = '[{"train": ["cube_00", "cube_01"], "val": ["cube_02"]}]'
    (data / "splits_final.json").write_text(names)
    file = write_pipeline(tmp_path / "p.yaml", data)
    checked = medfuse("check", file).out
    assert "x.mgz" in checked
    assert "cube_03, cube_04" in checked
    said = medfuse("run", file, "--set", "train.steps=2", "--set", "infer.runtime={use: torch}")
    before = (said.out + said.err).split("training on")[0].splitlines()
    for words in (
        "x.mgz)",
        "cube_03, cube_04",
        "no label map holds gone (2)",
        "2 training steps are too few",
    ):
        assert sum(words in line for line in before) == 1, words
