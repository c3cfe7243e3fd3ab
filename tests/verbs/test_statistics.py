"""`medfuse infer --statistics`: of every label map in the folder as it is now, whichever call made it."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medfuse import Predictor


@pytest.fixture
def scans(finished_run) -> Path:
    return finished_run.data / "imagesTr"


def infer(medfuse, run, *inputs: Path, output: Path, how=()):
    words = [word for path in inputs for word in ("--input", path)]
    return medfuse("infer", run.folder, *words, "--output", output, "-q", *how)


def statistics(folder: Path) -> dict:
    return json.loads((folder / "statistics.json").read_text())["cases"]


def rows(folder: Path) -> list[dict[str, str]]:
    return [*csv.DictReader((folder / "statistics.csv").read_text().splitlines())]


def test_they_are_those_of_the_files(finished_run, medfuse, scans, tmp_path):
    assert infer(medfuse, finished_run, scans, output=tmp_path, how=("--statistics",)).code == 0
    found = statistics(tmp_path)
    assert {*found} == {f"cube_{n:02d}" for n in range(4)}
    for name, one in found.items():
        label = np.asarray(nibabel.load(tmp_path / f"{name}.nii.gz").dataobj) == 1
        image = np.asarray(nibabel.load(scans / f"{name}.nii.gz").dataobj)
        cube = one["classes"]["cube"]
        assert cube["voxels"] == label.sum()
        assert cube["volume_ml"] == pytest.approx(label.sum() * 4.5 / 1000)
        if label.any():
            assert cube["intensity"]["MRI"]["mean"] == pytest.approx(image[label].mean(), abs=1e-4)
    assert [(row["case"], row["class"]) for row in rows(tmp_path)] == [(name, "cube") for name in found]


def test_without_the_option_there_are_none(finished_run, medfuse, scans, tmp_path):
    infer(medfuse, finished_run, scans / "cube_00.nii.gz", output=tmp_path)
    assert not [*tmp_path.glob("statistics*")]


def test_they_stay_right_when_a_folder_is_carried_on(finished_run, medfuse, scans, tmp_path):
    """Cases of earlier calls, with the option or without; label maps that were corrected or removed."""
    names = [f"cube_{n:02d}" for n in range(3)]
    for name, how in zip(names, [(), ("--statistics",), ("--statistics",)]):
        infer(medfuse, finished_run, scans / f"{name}.nii.gz", output=tmp_path, how=how)
    assert {*statistics(tmp_path)} == {*names}
    before = statistics(tmp_path)
    image = nibabel.load(tmp_path / "cube_01.nii.gz")
    nibabel.save(
        nibabel.Nifti1Image(np.ones(image.shape, np.uint8), image.affine), tmp_path / "cube_01.nii.gz"
    )
    (tmp_path / "cube_02.nii.gz").unlink()
    infer(medfuse, finished_run, scans / "cube_00.nii.gz", output=tmp_path, how=("--statistics",))
    after = statistics(tmp_path)
    assert {*after} == {"cube_00", "cube_01"}
    assert after["cube_00"] == before["cube_00"]
    assert after["cube_01"]["classes"]["cube"]["voxels"] == np.prod(image.shape)


@pytest.mark.parametrize("name", ["statistics.json", "statistics.csv"])
def test_what_medfuse_did_not_write_stays(finished_run, medfuse, scans, tmp_path, name):
    (tmp_path / name).write_text("mine")
    one = scans / "cube_00.nii.gz"
    said = infer(medfuse, finished_run, one, output=tmp_path, how=("--statistics",))
    assert said.code == 2
    assert str(tmp_path / name) in said.err
    assert (tmp_path / name).read_text() == "mine"
    assert infer(medfuse, finished_run, one, output=tmp_path, how=("--statistics", "--overwrite")).code == 0
    assert [row["case"] for row in rows(tmp_path)] == ["cube_00"]


def test_a_predictor_writes_them_too(finished_run, scans, tmp_path):
    predictor = Predictor.load(finished_run.folder, device="cpu")
    predictor.files(scans / "cube_00.nii.gz", tmp_path, statistics=True)
    assert {*statistics(tmp_path)} == {"cube_00"}


def test_an_image_that_has_gone_is_told_and_the_others_are_measured(
    finished_run, medfuse, scans, tmp_path, caplog
):
    moved = tmp_path / "in/a.nii.gz"
    moved.parent.mkdir()
    moved.write_bytes((scans / "cube_00.nii.gz").read_bytes())
    infer(medfuse, finished_run, moved, output=tmp_path / "out")
    moved.unlink()
    how = ("--statistics",)
    assert infer(medfuse, finished_run, scans / "cube_01.nii.gz", output=tmp_path / "out", how=how).code == 0
    assert {*statistics(tmp_path / "out")} == {"cube_01"}
    assert any("a: no statistics: " in record.getMessage() for record in caplog.records)
