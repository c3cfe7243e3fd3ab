"""`postprocess: auto`: steps are chosen on held-out cases, told honestly, and applied to new scans."""

import json
import shutil

import nibabel
import numpy as np
import pytest

from medfuse.core.errors import CheckpointError
from medfuse.core.reporter import Reporter
from medfuse.infer.settings import PostprocessSettings
from medfuse.report.pairs import Pair
from medfuse.runs.folds import choose_together
from medfuse.runs.postprocess import choose, component_scores, said, steps_for, write_choice
from medfuse.verbs.run import run_pipeline

LABELS = {"background": 0, "organ": 1}


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    return path


@pytest.fixture
def pairs(tmp_path):
    """Predictions that are right but for a speck each."""
    made = []
    for name in ("a", "b", "c"):
        truth = np.zeros((10, 10, 10), np.uint8)
        truth[2:6, 2:6, 2:6] = 1
        speck = truth.copy()
        speck[8, 8, 8] = 1
        files = save(tmp_path / "p" / f"{name}.nii", speck), save(tmp_path / "r" / f"{name}.nii", truth)
        made.append(Pair(name, *files))
    return made


def scores(pairs):
    return component_scores(pairs, LABELS, (), None, Reporter(quiet=True))


def table(**dice: float):
    """One label's score per case: what is done to it helps by as much."""
    return {case: {"organ": {"nothing": 0.5, "holes filled": value}} for case, value in dice.items()}


def test_a_step_that_raises_dice_is_chosen(pairs):
    chosen = choose(scores(pairs), {})
    (row,) = chosen["labels"]
    assert chosen["steps"]["largest_component"] == ["organ"]
    assert (row["before"], row["after"], row["cases"]) == (pytest.approx(128 / 129), 1, 3)
    assert row["held_out"] is None
    assert "n = 3, on the same cases, which flatters it" in said(chosen)[0]


def test_a_step_that_changes_nothing_is_not_taken(pairs):
    right = [Pair(pair.name, pair.reference, pair.reference) for pair in pairs]
    chosen = choose(scores(right), {})
    assert PostprocessSettings.model_validate(chosen["steps"]) == PostprocessSettings()
    assert "no step raises Dice" in said(chosen)[0]


def test_what_is_ignored_chooses_nothing(pairs):
    for pair in pairs:
        truth = np.asarray(nibabel.load(pair.reference).dataobj).copy()
        truth[8, 8, 8] = 9
        save(pair.reference, truth)
    (row,) = choose(component_scores(pairs, LABELS, (), 9, Reporter(quiet=True)), {})["labels"]
    assert row["chosen"] == "nothing"


def test_the_honest_number_lets_other_folds_choose():
    found = table(a=0.9, b=0.9, c=0.0, d=0.4)
    fold_of = {"a": 0, "b": 0, "c": 1, "d": 1}
    (row,) = choose(found, {}, fold_of)["labels"]
    assert row["chosen"] == "holes filled"
    assert row["after"] == pytest.approx(0.55)
    # fold 1's cases would have done nothing to those of fold 0, whose cases harm those of fold 1
    assert row["held_out"] == pytest.approx((0.5 + 0.5 + 0.0 + 0.4) / 4)


def test_folds_choose_together(tmp_path):
    for fold, cases in enumerate((table(a=0.9, b=0.4), table(c=0.8))):
        (tmp_path / f"fold_{fold}").mkdir()
        write_choice(tmp_path / f"fold_{fold}", choose(cases, {}))
    together = choose_together({fold: tmp_path / f"fold_{fold}" for fold in (0, 1)})
    (row,) = together["labels"]
    assert (row["cases"], row["chosen"]) == (3, "holes filled")
    assert row["held_out"] is not None


def test_a_threshold_is_chosen_for_each_region():
    thresholds = {"a": {"whole": {"threshold 0.4": 0.9, "threshold 0.5": 0.8}}}
    assert choose({}, thresholds)["steps"]["threshold"] == {"whole": 0.4}


@pytest.fixture
def tidy_run(finished_run, tmp_path):
    """The finished run, which leaves postprocessing to its held-out cases."""
    runs = tmp_path / "runs"
    shutil.copytree(finished_run.folder.parent, runs)
    more = ["infer.postprocess=auto"]
    return run_pipeline(finished_run.pipeline, more, runs=runs, reporter=Reporter(quiet=True))


def test_a_run_judges_before_postprocessing_and_says_what_it_chose(tidy_run, finished_run):
    before = json.loads((finished_run.folder / "summary.json").read_text())
    after = json.loads((tidy_run.folder / "summary.json").read_text())
    assert after["mean"] == before["mean"]
    assert "before postprocessing" in after["notes"][-1]
    assert "postprocess" in tidy_run.text()
    assert "cube" in json.loads((tidy_run.folder / "postprocess.json").read_text())["labels"][0]["label"]


def test_infer_applies_what_was_chosen(tidy_run, finished_run, tmp_path, medfuse):
    chosen = json.loads((tidy_run.folder / "postprocess.json").read_text())
    chosen["steps"] |= {"minimum_ml": {"cube": 1e6}}  # so that nothing is left
    (tidy_run.folder / "postprocess.json").write_text(json.dumps(chosen))
    image = finished_run.data / "imagesTr" / "cube_03.nii.gz"

    def predicted(name, *more):
        assert medfuse("infer", tidy_run.folder, "-i", image, "-o", tmp_path / name, *more).code == 0
        return np.asarray(nibabel.load(tmp_path / name / "cube_03.nii.gz").dataobj)

    assert not predicted("auto", "--set", "postprocess=auto").any()
    assert predicted("none", "--set", "postprocess=none").any()
    assert predicted("own", "--set", "postprocess={largest_component: [cube]}").any()


def test_a_label_that_there_is_not_is_refused(finished_run, medfuse):
    said = medfuse("check", finished_run.pipeline, "--set", "infer.postprocess={largest_component: [kube]}")
    assert said.code == 2
    assert "there is no label 'kube'; did you mean 'cube'?" in said.err


@pytest.mark.parametrize("text", ["{", "[1]", "{}", '{"steps": {"largest_component": 3}, "scores": {}}'])
def test_a_damaged_choice_is_one_line(tmp_path, text):
    (tmp_path / "postprocess.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"postprocess\.json[^\n]*run the pipeline again"):
        steps_for([tmp_path])
