"""`medfuse evaluate --calibration` judges the probabilities that `medfuse infer` wrote."""

import json
import shutil

import nibabel
import numpy as np
import pytest

from medfuse.report.calibration import calibration_error


@pytest.fixture
def predicted(finished_run, tmp_path, medfuse):
    """Predictions with probabilities, of the cases of the tiny run, and their references."""
    data, made = tmp_path / "images", tmp_path / "made"
    data.mkdir()
    for image in sorted((finished_run.data / "imagesTr").glob("*.nii*"))[:2]:
        shutil.copy(image, data)
    said = medfuse("infer", finished_run.folder, "-i", data, "-o", made, "--probabilities", "nifti", "-q")
    assert said.code == 0
    labels = tmp_path / "labels"
    labels.mkdir()
    for image in data.iterdir():
        shutil.copy(finished_run.data / "labelsTr" / image.name, labels)
    return made, labels


def test_it_is_in_the_table_and_in_the_summary_of_each_case(predicted, medfuse):
    made, labels = predicted
    said = medfuse("evaluate", made, labels, "--label", "cube=1", "--calibration", "-q")
    assert "ECE [95 %] (n)" in said.out
    summary = json.loads((made / "summary.json").read_text())
    assert summary["n"]["1"]["ECE"] == 2
    assert "expected calibration error" in summary["definitions"]["ECE"]
    case = summary["metric_per_case"][0]

    def voxels(path):
        return np.asarray(nibabel.load(path).dataobj)

    masks = (voxels(case[key]) == 1 for key in ("prediction_file", "reference_file"))
    probability = voxels(made / f"{case['name']}_probabilities.nii.gz")[..., 1]
    assert case["metrics"]["1"]["ECE"] == pytest.approx(calibration_error(probability, *masks))


def test_without_probabilities_it_is_null_and_the_rest_is_judged(predicted, medfuse):
    made, labels = predicted
    for path in made.glob("*_probabilities.nii.gz"):
        path.unlink()
    said = medfuse("evaluate", made, labels, "--label", "cube=1", "--calibration", "-q")
    assert said.code == 0
    summary = json.loads((made / "summary.json").read_text())
    assert (summary["mean"]["1"]["ECE"], summary["n"]["1"]["Dice"]) == (None, 2)


def test_probabilities_of_another_grid_are_told(predicted, medfuse):
    made, labels = predicted
    path = next(made.glob("*_probabilities.nii.gz"))
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3, 2), np.float32), np.eye(4)), path)
    said = medfuse("evaluate", made, labels, "--label", "cube=1", "--calibration", "-q")
    assert said.code == 2
    assert f"{path}: has shape (3, 3, 3)" in said.err


def test_a_run_judges_what_its_report_asks_for(finished_run, tmp_path, plain_report):
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.run import run_pipeline

    shutil.copytree(finished_run.folder, tmp_path / finished_run.folder.name)
    asked = ["report.calibration=true", "report.lesions=true"]
    run_pipeline(finished_run.pipeline, asked, runs=tmp_path, reporter=Reporter(quiet=True))
    summary = json.loads((tmp_path / finished_run.folder.name / "summary.json").read_text())
    assert summary["n"]["1"]["ECE"] == summary["cases"] == 1
    assert summary["lesions"]["1"]["found"] + summary["lesions"]["1"]["missed"] == 1
