"""The final model: all labelled cases train it, nothing judges it, and whatever tells of it says so."""

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from phantoms import describe, write_case, write_dataset, write_pipeline

from medfuse.core.errors import CheckpointError, DataError, MedfuseError, PipelineError
from medfuse.core.reporter import Reporter
from medfuse.model.weights import load_weights
from medfuse.report.summary import foreground_text
from medfuse.trained.loading import weights_file
from medfuse.verbs.check import check_pipeline
from medfuse.verbs.compare import compare_pipelines
from medfuse.verbs.folds import CrossValidated, run_folds
from medfuse.verbs.run import RunResult, run_pipeline

NAMES = [f"cube_{i:02d}" for i in range(4)]
NOTHING = "4 labelled cases train and none is held out (split.fold: all), so nothing is judged"
ALL = "split.fold=all"
INFER = "infer: {postprocess: auto, runtime: {use: torch, precision: fp32}}\n"  # `auto` tries what is fastest


def run(pipeline: Path, *overrides: str, runs: Path) -> tuple[RunResult, str]:
    """A run, and all that was said."""
    said = io.StringIO()
    return run_pipeline(pipeline, overrides, runs=runs, reporter=Reporter(said)), said.getvalue()


@dataclass
class Both:
    """A pipeline, its cross-validation, and its final model with what was said."""

    pipeline: Path
    folds: CrossValidated
    final: RunResult
    said: str

    @property
    def runs(self) -> Path:
        return self.folds.folder.parent


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Both:
    home = tmp_path_factory.mktemp("final")
    data = write_dataset(home / "cubes")
    halves = [{"train": NAMES[:2], "val": NAMES[2:]}, {"train": NAMES[2:], "val": NAMES[:2]}]
    (data / "splits_final.json").write_text(json.dumps(halves))
    pipeline = write_pipeline(home / "cubes.yaml", data)
    pipeline.write_text(pipeline.read_text() + INFER)
    folds = run_folds(pipeline, runs=home / "runs", reporter=Reporter(quiet=True))
    return Both(pipeline, folds, *run(pipeline, ALL, runs=home / "runs"))


def test_it_stands_beside_the_folds_of_its_cross_validation(both):
    assert both.final.folder == both.folds.folder / "fold_all"
    assert {"fold_0", "fold_1", "fold_all"} < {path.name for path in both.folds.folder.iterdir()}


def test_every_labelled_case_trains_and_none_judges(both):
    data = json.loads((both.final.folder / "data.json").read_text())
    assert (data["train"], data["validation"]) == (NAMES, [])
    assert not (both.final.folder / "predictions").exists()
    assert not (both.final.folder / "weights_best.safetensors").exists()
    assert "dice" not in (both.final.folder / "metrics.jsonl").read_text()


@pytest.mark.parametrize("file", ["resolved.yaml", "summary.json", "report.html"])
def test_every_record_says_that_nothing_is_judged(both, file):
    assert NOTHING in (both.final.folder / file).read_text()


def test_the_run_says_so_before_training_and_at_its_end(both):
    assert NOTHING in both.said.split("training")[0]
    assert NOTHING in both.final.text()
    assert "held-out cases:" not in both.final.text()
    assert "not judged" in (both.final.folder / "report.html").read_text()


def test_the_weights_know_of_which_fold_they_are(both):
    facts = [
        load_weights(weights_file(both.folds.folder / f"fold_{fold}", best=False))[1] for fold in ("all", 1)
    ]
    assert [fact["fold"] for fact in facts] == ["all", 1]


def test_the_resolved_values_train_the_same(both):
    assert yaml.safe_load((both.final.folder / "resolved.yaml").read_text())["split"]["fold"] == "all"
    assert NOTHING in check_pipeline(both.final.folder / "resolved.yaml")


def test_the_dice_of_its_cross_validation_is_what_may_be_quoted(both):
    quoted = f"which may be quoted: mean foreground Dice {foreground_text(both.folds.summary)} ± "
    assert quoted in both.final.text()
    assert quoted in " ".join(json.loads((both.final.folder / "summary.json").read_text())["notes"])


def test_the_cross_validation_names_the_command(both):
    assert f"medfuse run {both.pipeline} --fold all" in both.folds.text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train.steps=3", "train.steps was 4, is 3"),
        ("train.weight_decay=0.1", "train.weight_decay was 3e-05"),
    ],
)
def test_of_another_model_no_dice_is_quoted(both, tmp_path, change, words):
    shutil.copytree(both.folds.folder, tmp_path / "cubes", ignore=shutil.ignore_patterns("fold_all"))
    final, _ = run(both.pipeline, ALL, change, runs=tmp_path)
    assert f"is of another model ({words}" in final.text()
    assert "mean foreground Dice" not in final.text()


def test_without_a_cross_validation_its_command_is_named(both, tmp_path):
    final, _ = run(both.pipeline, ALL, runs=tmp_path)
    assert "there is no finished cross-validation beside it; `medfuse run FILE --folds all`" in final.text()


def test_postprocessing_is_what_the_cross_validation_chose(both, tmp_path):
    chosen = [
        json.loads((f / "postprocess.json").read_text()) for f in (both.folds.folder, both.final.folder)
    ]
    assert chosen[0] == chosen[1]
    alone, _ = run(both.pipeline, ALL, runs=tmp_path)
    assert "chosen by a cross-validation, and there is none beside it, so nothing is done" in alone.text()
    assert not (alone.folder / "postprocess.json").exists()


def test_a_folder_of_folds_stands_for_their_mean_and_one_around_a_single_run_for_that(
    both, tmp_path, medfuse
):
    image = both.pipeline.parent / "cubes" / "imagesTr" / "cube_00.nii.gz"
    said = medfuse("infer", both.folds.folder, "-i", image, "-o", tmp_path / "mean")
    assert "the mean of 2 folds" in said.err
    assert f"{both.final.folder} is one network that all cases trained" in said.err
    shutil.copytree(both.final.folder, tmp_path / "cubes" / "fold_all")
    assert medfuse("infer", tmp_path / "cubes", "-i", image, "-o", tmp_path / "one").code == 0
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert len(manifest["weights"]) == 1
    with pytest.raises(CheckpointError, match="holds fold_0, fold_1, fold_all; give one"):
        weights_file(both.folds.folder, best=False)


def test_nothing_was_there_to_choose_the_best_weights(both):
    with pytest.raises(CheckpointError, match=r"no held-out case was looked at .*; leave out --best"):
        weights_file(both.final.folder, best=True)


def test_it_has_nothing_to_be_compared_by(both):
    quiet = Reporter(quiet=True)
    with pytest.raises(DataError, match="fold_all: no held-out case is judged there"):
        compare_pipelines([both.folds.folder / "fold_0", both.final.folder], reporter=quiet)
    with pytest.raises(PipelineError, match=r"--set split.fold: all: nothing is held out"):
        compare_pipelines([both.pipeline], overrides=[ALL], reporter=quiet)


def test_a_second_time_nothing_is_trained_and_other_cases_are_refused(both, tmp_path):
    shutil.copytree(both.pipeline.parent, tmp_path / "copy")
    pipeline = write_pipeline(tmp_path / "copy" / "cubes.yaml", tmp_path / "copy" / "cubes")
    runs = tmp_path / "copy" / "runs"
    assert "trained already" in run(pipeline, ALL, "infer.postprocess=auto", runs=runs)[1]
    write_case(tmp_path / "copy" / "cubes", "cube_04", seed=4)
    describe(tmp_path / "copy" / "cubes", [*NAMES, "cube_04"])
    with pytest.raises(DataError, match="1 case is new: cube_04"):
        run(pipeline, ALL, runs=runs)
    final = run_pipeline(pipeline, [ALL], runs=runs, retrain=True, reporter=Reporter(quiet=True))
    assert "5 labelled cases train" in final.text()
    assert "is of another model (1 case is new: cube_04)" in final.text()


def test_one_labelled_case_trains_where_none_is_held_out(tmp_path):
    data = write_dataset(tmp_path / "one", cases=1)
    (data / "splits_final.json").unlink()
    pipeline = write_pipeline(tmp_path / "one.yaml", data)
    with pytest.raises(
        PipelineError, match=r"1 labelled case; .*add some.*or train unjudged: `split: {fold: all}`"
    ):
        run(pipeline, runs=tmp_path / "runs")
    final, _ = run(pipeline, ALL, runs=tmp_path / "runs")
    assert "the one labelled case trains and none is held out" in final.text()


def test_cases_that_the_splits_leave_out_train_and_are_named(both, tmp_path):
    shutil.copytree(both.pipeline.parent / "cubes", tmp_path / "cubes")
    splits = [{"train": NAMES[:2], "val": NAMES[2:3]}]
    (tmp_path / "cubes" / "splits_final.json").write_text(json.dumps(splits))
    said = check_pipeline(write_pipeline(tmp_path / "cubes.yaml", tmp_path / "cubes"), [ALL])
    assert (
        "warning: 1 labelled case trains that is in no fold of the splits: cube_03; take its label out"
        in said
    )


def test_a_refused_start_leaves_no_folder(both, tmp_path):
    with pytest.raises(MedfuseError):
        run(both.pipeline, ALL, "report.maps=[nothing]", runs=tmp_path)
    assert not (tmp_path / "cubes").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--fold", "all", "--folds", "all"), "give one; first --folds all, then --fold all"),
        (("--fold", "first"), "write all, or the number of one fold"),
        (("--set", "split.fold=some"), "'all'"),
        (("--set", "split.fold=-1"), "greater than or equal to 0"),
    ],
)
def test_a_fold_is_a_number_or_all(both, medfuse, words, message):
    said = medfuse("run", both.pipeline, *words)
    assert said.code == 2
    assert message in said.err


def test_the_command_line_trains_it(both, medfuse):
    said = medfuse("run", both.pipeline, "--fold", "all", "--runs", both.runs)
    assert said.code == 0
    assert NOTHING in said.out


@pytest.mark.parametrize("fold", ["fold_all", "fold_1"])
def test_a_source_that_has_seen_held_out_cases_is_told(both, tmp_path, fold):
    source = both.folds.folder / fold / "weights_last.safetensors"
    _, said = run(both.pipeline, f"model.transfer.encoder.weights={source}", "name=again", runs=tmp_path)
    seen = (
        "model.transfer.encoder: " in said
        and f"{source} was trained on 2 held-out cases of this run: " in said
    )
    assert seen


def test_a_source_that_held_them_out_too_is_not(both, tmp_path):
    source = both.folds.folder / "fold_0" / "weights_last.safetensors"
    _, said = run(both.pipeline, f"model.transfer.encoder.weights={source}", "name=again", runs=tmp_path)
    assert "was trained on" not in said


def test_a_probe_of_it_learns_one_case(both, medfuse, tmp_path):
    said = medfuse("probe", both.pipeline, "--set", ALL, "--runs", tmp_path, "--steps", 20, "-q")
    assert said.code == 0, said.err
    assert "cube_00, 20 steps: loss " in said.out


@pytest.mark.parametrize("text", [None, "{}"])
def test_a_faulty_file_of_splits_is_told_though_it_decides_nothing(both, tmp_path, text):
    file = tmp_path / "splits.json"
    if text:
        file.write_text(text)
    for verb in (
        check_pipeline,
        lambda *words: run_pipeline(*words, runs=tmp_path, reporter=Reporter(quiet=True)),
    ):
        with pytest.raises(PipelineError, match=r"^--set split\.file: .*splits\.json: "):
            verb(both.pipeline, [ALL, f"split.file={file}"])


@pytest.mark.parametrize("text", ["{", "[]", '{"folds": {}}'])
def test_a_damaged_cross_validation_is_one_line_and_ends_nothing(both, tmp_path, text):
    shutil.copytree(both.folds.folder, tmp_path / "cubes")
    (tmp_path / "cubes" / "summary.json").write_text(text)
    final, _ = run(both.pipeline, ALL, runs=tmp_path)
    (line,) = (line for line in final.text().splitlines() if "summary.json" in line)
    assert "run the cross-validation again, which writes it anew" in line
    assert "mean foreground Dice" not in final.text()


def test_of_folds_that_are_gone_no_dice_is_quoted(both, tmp_path):
    shutil.copytree(both.folds.folder, tmp_path / "cubes", ignore=shutil.ignore_patterns("fold_1"))
    (tmp_path / "cubes" / "fold_0").rename(tmp_path / "cubes" / "fold_7")
    final, _ = run(both.pipeline, ALL, runs=tmp_path)
    assert "there is no finished cross-validation beside it" in final.text()
