"""The main job from a YAML file to a report, on cubes of 20 voxels."""

import io
import json
import os
import shlex
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml
from phantoms import write_case, write_dataset, write_pipeline

from medfuse import MedfuseError
from medfuse.core.device import Precision
from medfuse.core.reporter import Reporter
from medfuse.model.weights import load_weights
from medfuse.verbs.check import check_pipeline
from medfuse.verbs.run import run_pipeline


def again(run, *overrides, folder=None):
    return run_pipeline(
        run.pipeline, overrides, runs=folder or run.folder.parent, reporter=Reporter(quiet=True)
    )


def test_a_run_leaves_everything_in_its_folder(finished_run):
    found = {p.name for p in finished_run.folder.iterdir()}
    assert found >= {
        "resolved.yaml",
        "lock.json",
        "plan.json",
        "weights_last.safetensors",
        "weights_best.safetensors",
        "metrics.jsonl",
        "predictions",
        "summary.json",
        "report.html",
    }
    assert not list(finished_run.folder.rglob(".unfinished*"))


def test_what_a_run_writes_is_open_to_whom_the_umask_says(finished_run):
    os.umask(umask := os.umask(0))
    files = [path for path in finished_run.folder.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~umask}


def test_validation_has_a_bar_of_its_own_after_each_epoch(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr("medfuse.report.html.page", lambda content: "")  # of this run alone
    shown = []

    class Watched(Reporter):
        def track(self, what, total):
            shown.append(what)
            return super().track(what, total)

    run_pipeline(finished_run.pipeline, runs=tmp_path, reporter=Watched(quiet=True))
    assert shown[shown.index("training") :][:3] == ["training", "validation", "validation"]


def test_the_last_lines_name_dice_report_weights_and_predictions(finished_run):
    for word in ("Dice cube:", "(1 patient)", "report.html", "weights_last.safetensors", "predictions"):
        assert word in finished_run.text


def test_the_command_for_new_scans_can_be_copied_whatever_the_folder_is_called(finished_run):
    odd = replace(again(finished_run), folder=Path("runs/it's <two> words"))
    (line,) = [line for line in odd.text().splitlines() if line.startswith("new scans:")]
    assert shlex.split(line.partition(":")[2])[:3] == ["medfuse", "infer", str(odd.folder)]


def test_what_more_training_would_bring_is_said_in_summary_and_report(finished_run):
    told = "outlook: too short a training to tell what 3 times as many steps would bring"
    assert told in json.loads((finished_run.folder / "summary.json").read_text())["notes"]
    assert told in (finished_run.folder / "report.html").read_text()


def test_resolved_values_are_a_pipeline_of_their_own(finished_run, tmp_path):
    resolved = finished_run.folder / "resolved.yaml"
    values = yaml.safe_load(resolved.read_text())
    assert values["preprocess"]["spacing_mm"] == [1.5, 1.5, 2.0]
    assert "cube" in check_pipeline(resolved)


def test_the_lock_names_versions_seed_and_data(finished_run):
    lock = json.loads((finished_run.folder / "lock.json").read_text())
    assert lock["seed"] == 1
    assert lock["packages"]["torch"]
    assert len(lock["data"]) == 8
    assert all(len(digest) == 64 for digest in lock["data"].values())


def test_the_users_file_is_never_rewritten(finished_run):
    assert (
        finished_run.pipeline.read_text()
        == write_pipeline(finished_run.pipeline.with_name("copy.yaml"), finished_run.data).read_text()
    )


def test_predictions_lie_on_their_images(finished_run):
    image = nibabel.load(finished_run.data / "imagesTr" / "cube_03.nii.gz")
    labels = nibabel.load(finished_run.folder / "predictions" / "cube_03.nii.gz")
    assert np.array_equal(labels.affine, image.affine)
    assert labels.shape == image.shape
    assert labels.get_data_dtype() == np.uint8


def test_a_finished_run_is_not_trained_again(finished_run):
    before = (finished_run.folder / "weights_last.safetensors").read_bytes()
    again(finished_run)
    assert (finished_run.folder / "weights_last.safetensors").read_bytes() == before


@pytest.mark.parametrize("harm", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-20])])
def test_lost_weights_are_written_anew(finished_run, tmp_path, harm):
    shutil.copytree(finished_run.folder, tmp_path / "cubes")
    weights = tmp_path / "cubes" / "weights_last.safetensors"
    harm(weights)
    again(finished_run, folder=tmp_path)
    before, _ = load_weights(finished_run.folder / weights.name)
    after, _ = load_weights(weights)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_run_keeps_the_precision_it_began_with(finished_run, tmp_path, monkeypatch, deterministic):
    found = iter(["bf16", "fp32"])
    monkeypatch.setattr(
        "medfuse.core.device.choose_precision", lambda *_, **__: Precision(next(found), "tossed")
    )
    kinds = []
    for steps in (2, 4):
        reporter = Reporter(io.StringIO())
        changes = ["train.precision=auto", f"train.deterministic={deterministic}", f"train.steps={steps}"]
        run_pipeline(finished_run.pipeline, changes, runs=tmp_path, reporter=reporter)
        kinds.append("bf16" if "cpu in bf16" in reporter._stream.getvalue() else "fp32")
    assert kinds == (["bf16", "fp32"] if deterministic else ["bf16", "bf16"])


def test_a_larger_budget_carries_on(finished_run, tmp_path):
    shutil.copytree(finished_run.folder, tmp_path / "cubes")
    again(finished_run, "train.steps=6", folder=tmp_path)
    rows = map(json.loads, (tmp_path / "cubes" / "metrics.jsonl").read_text().splitlines())
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_another_pipeline_is_not_mixed_into_a_run(finished_run):
    with pytest.raises(
        MedfuseError, match=r"another pipeline \(seed was 1, is 2\)\n.*give this run another name"
    ):
        again(finished_run, "seed=2")


def test_two_runs_with_one_seed_are_equal(finished_run, tmp_path):
    engine = "infer.runtime={use: torch, precision: fp32}"  # `auto` takes what is fastest at the moment
    means = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        again(finished_run, engine, folder=folder)
        means.append(json.loads((folder / "cubes" / "summary.json").read_text())["foreground_mean"])
    assert means[0] == means[1]


def test_metrics_hold_losses_weights_rate_and_dice(finished_run):
    rows = [json.loads(line) for line in (finished_run.folder / "metrics.jsonl").read_text().splitlines()]
    keys = set().union(*rows)
    assert keys >= {
        "loss",
        "loss/decoded.1",
        "weight/decoded.1",
        "learning_rate",
        "dice",
        "dice/cube",
        "steps_per_second",
    }


def test_infer_skips_what_is_finished(finished_run, medfuse, tmp_path):
    words = ("infer", finished_run.folder, "-i", finished_run.data / "imagesTr", "-o", tmp_path, "-q")
    assert "4 written, 0 were finished" in medfuse(*words).out
    assert "0 written, 4 were finished" in medfuse(*words).out


def test_infer_of_held_out_cases_repeats_the_runs_predictions(finished_run, medfuse, tmp_path):
    medfuse(
        "infer",
        finished_run.folder,
        "-i",
        finished_run.data / "imagesTr" / "cube_03.nii.gz",
        "-o",
        tmp_path,
        "-q",
    )
    ours = nibabel.load(finished_run.folder / "predictions" / "cube_03.nii.gz").get_fdata()
    assert np.array_equal(nibabel.load(tmp_path / "cube_03.nii.gz").get_fdata(), ours)


def test_the_manifest_tells_seconds_volumes_and_weights(finished_run, medfuse, tmp_path):
    medfuse("infer", finished_run.folder, "-i", finished_run.data / "imagesTr", "-o", tmp_path, "-q")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    entry = manifest["cases"]["cube_00"]
    assert entry["seconds"] > 0
    assert set(entry["volumes_ml"]) == {"cube"}
    assert len(manifest["weights"][0]) == 64
    assert manifest["medfuse"] == "0.1.0"


def test_folds_are_averaged_and_overrides_reach_inference(finished_run, medfuse, tmp_path):
    image = finished_run.data / "imagesTr" / "cube_00.nii.gz"
    said = medfuse(
        "infer",
        finished_run.folder,
        finished_run.folder,
        "-i",
        image,
        "-o",
        tmp_path,
        "--set",
        "mirror=[x]",
        "-q",
    )
    assert said.code == 0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert len(manifest["weights"]) == 2
    assert manifest["settings"]["mirror"] == ["x"]


def test_evaluate_works_on_any_two_folders(finished_run, medfuse, tmp_path):
    labels = finished_run.data / "labelsTr"
    said = medfuse("evaluate", labels, labels, "-o", tmp_path, "-q")
    row = said.out.splitlines()[1]
    assert row.split()[:2] == ["1", "1.0000"]
    assert row.count("(4)") == 3
    assert json.loads((tmp_path / "summary.json").read_text())["foreground_mean"]["Dice"] == 1


def test_several_channels_go_through_every_stage(tmp_path):
    data = write_dataset(tmp_path / "cubes", channels=2)
    pipeline = write_pipeline(tmp_path / "cubes.yaml", data)
    result = run_pipeline(pipeline, runs=tmp_path / "runs", reporter=Reporter(quiet=True))
    assert (result.folder / "predictions" / "cube_03.nii.gz").exists()


def test_the_report_says_how_to_repeat_it_in_plain_words(finished_run):
    report = (finished_run.folder / "report.html").read_text()
    assert "How to repeat it" in report
    assert "\n..." not in report  # with which YAML ends a lone string


def test_a_2d_network_goes_through_every_stage(finished_run, tmp_path):
    result = again(finished_run, "sample.patch_size=[16,16]", "name=flat", folder=tmp_path)
    assert (result.folder / "report.html").exists()


def test_one_failing_case_does_not_stop_the_others(finished_run, medfuse, tmp_path):
    write_case(tmp_path, "good")
    (tmp_path / "imagesTr" / "bad.nii.gz").write_text("no image")
    said = medfuse("infer", finished_run.folder, "-i", tmp_path / "imagesTr", "-o", tmp_path / "out", "-q")
    assert said.code == 2
    assert "1 written" in said.out
    assert "bad.nii.gz: is not a gzip file" in said.out
    assert (tmp_path / "out" / "good.nii.gz").exists()
    assert not list((tmp_path / "out").glob("*bad*"))
