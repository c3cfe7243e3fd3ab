"""Cross-validation: folds in folders of their own, held-out cases judged together, all weights as one."""

import json

import nibabel
import numpy as np
import pytest
from phantoms import write_dataset, write_pipeline

from medfuse import MedfuseError
from medfuse.core.reporter import Reporter
from medfuse.verbs.folds import run_folds
from medfuse.verbs.run import run_pipeline

NAMES = [f"cube_{i:02d}" for i in range(4)]


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    home = tmp_path_factory.mktemp("folds")
    data = write_dataset(home / "cubes")
    halves = [{"train": NAMES[:2], "val": NAMES[2:]}, {"train": NAMES[2:], "val": NAMES[:2]}]
    (data / "splits_final.json").write_text(json.dumps(halves))
    pipeline = write_pipeline(home / "cubes.yaml", data)
    return pipeline, run_folds(pipeline, runs=home / "runs", reporter=Reporter(quiet=True))


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_every_fold_has_a_run_folder(validated):
    _, done = validated
    assert sorted(p.name for p in done.folder.iterdir()) == ["fold_0", "fold_1", "summary.json"]
    assert (done.folder / "fold_1" / "report.html").is_file()
    assert (done.folder.parent / "prepared").is_dir()


def test_every_case_is_judged_once_by_the_fold_that_held_it_out(validated):
    _, done = validated
    found = summary(done.folder)
    assert [case["name"] for case in found["metric_per_case"]] == NAMES
    assert found["folds"]["0"]["cases"] == NAMES[2:]
    of_fold = {case["name"]: case["metrics"] for case in summary(done.folder / "fold_0")["metric_per_case"]}
    assert found["metric_per_case"][2]["metrics"] == of_fold["cube_02"]


def test_the_spread_is_that_of_the_folds_means(validated):
    _, done = validated
    found = summary(done.folder)
    means = [found["folds"][fold]["mean"]["1"]["Dice"] for fold in "01"]
    assert found["between_folds"]["1"] == {
        "mean": pytest.approx(np.mean(means)),
        "std": pytest.approx(np.std(means, ddof=1)),
        "n": 2,
    }
    assert "±" in done.text()


def test_a_second_time_nothing_is_trained_again(validated):
    pipeline, done = validated
    weights = done.folder / "fold_0" / "weights_last.safetensors"
    before = weights.stat().st_mtime_ns
    again = run_folds(pipeline, folds=[0], runs=done.folder.parent, reporter=Reporter(quiet=True))
    assert weights.stat().st_mtime_ns == before
    assert again.summary["cases"] == 2
    run_folds(pipeline, runs=done.folder.parent, reporter=Reporter(quiet=True))


def test_infer_takes_the_mean_of_all_folds(validated, tmp_path, medfuse):
    pipeline, done = validated
    image = pipeline.parent / "cubes" / "imagesTr" / "cube_00.nii.gz"
    folds = [done.folder / f"fold_{fold}" for fold in (0, 1)]
    assert medfuse("infer", done.folder, "-i", image, "-o", tmp_path / "whole").code == 0
    assert medfuse("infer", *folds, "-i", image, "-o", tmp_path / "both").code == 0
    maps = [np.asarray(nibabel.load(tmp_path / n / "cube_00.nii.gz").dataobj) for n in ("whole", "both")]
    np.testing.assert_array_equal(*maps)
    assert len(json.loads((tmp_path / "whole" / "manifest.json").read_text())["weights"]) == 2


def test_a_folder_holds_one_run_or_its_folds(validated, finished_run):
    pipeline, done = validated
    with pytest.raises(MedfuseError, match="holds a cross-validation"):
        run_pipeline(pipeline, runs=done.folder.parent, reporter=Reporter(quiet=True))
    with pytest.raises(MedfuseError, match="holds the run of a single fold"):
        run_folds(finished_run.pipeline, runs=finished_run.folder.parent, reporter=Reporter(quiet=True))


def test_a_fold_that_there_is_not_is_refused_and_leaves_nothing(validated, medfuse, tmp_path):
    said = medfuse("run", validated[0], "--folds", "0,2", "--runs", tmp_path / "runs")
    assert (said.code, said.err.strip()) == (2, "--folds 2: there are 2 folds, counted from 0")
    assert not (tmp_path / "runs").exists()


def test_a_number_of_folds_that_the_datasets_own_outdo_is_told(validated, medfuse, tmp_path):
    words = ("--folds", "0", "--runs", tmp_path / "runs", "--set", "sample.patch_size=[3, 3, 3]")
    told = "the 2 folds of the dataset's own splits count, and split.folds, which is 4, does not"
    assert told in medfuse("run", validated[0], *words, "--set", "split.folds=4").err
    for more in ((), ("--set", "split.folds=2")):
        assert "split.folds" not in medfuse("run", validated[0], *words, *more).err


def test_folds_of_a_pipeline_that_is_refused_leave_no_folder(validated, medfuse, tmp_path):
    words = ("--folds", "0", "--runs", tmp_path / "runs", "--set", "train.learning_rate=-1")
    assert medfuse("run", validated[0], *words).code == 2
    words = ("--folds", "0", "--runs", tmp_path / "runs", "--set", "sample.patch_size=[3, 3, 3]")
    assert medfuse("run", validated[0], *words).code == 2
    assert not [*(tmp_path / "runs").glob("*/*")]
    assert not [*(tmp_path / "runs").glob("cubes")]


def test_several_processes_train_no_folds(validated, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MedfuseError, match="by one process"):
        run_folds(validated[0], reporter=Reporter(quiet=True))
