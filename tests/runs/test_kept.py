"""What a run was trained on is kept: the same data go on, other data are refused, and records stay true."""

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from phantoms import describe, write_case, write_dataset, write_pipeline

from medfuse.core.errors import MedfuseError
from medfuse.core.files import file_hash
from medfuse.core.reporter import Reporter
from medfuse.model.weights import load_weights
from medfuse.runs.folder import holds_weights
from medfuse.train.state import read_state
from medfuse.verbs.run import run_pipeline

RECORDS = ("pipeline.json", "data.json", "lock.json", "plan.json", "fingerprint.json", "resolved.yaml")
NAMES = [f"cube_{i:02d}" for i in range(4)]
pytestmark = pytest.mark.usefixtures("plain_report")


@dataclass
class Given:
    """A finished run and its data, to be changed."""

    data: Path
    pipeline: Path
    folder: Path

    def run(self, *overrides: str, retrain: bool = False) -> str:
        """Run it again; all that is said."""
        said = io.StringIO()
        run_pipeline(
            self.pipeline, overrides, runs=self.folder.parent, retrain=retrain, reporter=Reporter(said)
        )
        return said.getvalue()

    def records(self) -> dict[str, str]:
        return {name: (self.folder / name).read_text() for name in RECORDS}

    def weights(self) -> str:
        return file_hash(self.folder / "weights_last.safetensors")

    def held_out(self) -> list[str]:
        summary = json.loads((self.folder / "summary.json").read_text())
        return [case["name"] for case in summary["metric_per_case"]]


@pytest.fixture
def given(finished_run, tmp_path) -> Given:
    """Copies, so that the dataset has been moved since it was trained on."""
    shutil.copytree(finished_run.data, tmp_path / "moved")
    shutil.copytree(finished_run.folder, tmp_path / "runs" / "cubes")
    pipeline = write_pipeline(tmp_path / "cubes.yaml", tmp_path / "moved")
    return Given(tmp_path / "moved", pipeline, tmp_path / "runs" / "cubes")


def change_label(given: Given, name: str = "cube_00") -> None:
    path = given.data / "labelsTr" / f"{name}.nii.gz"
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.roll(np.asarray(image.dataobj), 1, 0), image.affine), path)


def describe_as(given: Given, **values: object) -> None:
    path = given.data / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_moved_dataset_is_the_same_data(given):
    before = given.weights(), given.records()
    said = given.run()
    assert "the data lie elsewhere than they did, and are the same" in said
    assert "trained already" in said
    assert (given.weights(), given.records()) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_label, "1 case has a changed label: cube_00"),
        (lambda g: write_case(g.data, "cube_01", seed=9), "1 case has another image: cube_01"),
        (lambda g: write_case(g.data, "more", seed=9) or describe(g.data, [*NAMES, "more"]), "is new: more"),
        (lambda g: describe(g.data, NAMES[1:]), "1 case is gone, or has no label: cube_00"),
        (lambda g: describe_as(g, modality={"0": "CT"}), "channels were MRI, are CT"),
        (lambda g: describe_as(g, labels={"0": "background", "1": "box"}), "labels were .* are .*box: 1"),
        (
            lambda g: (g.data / "splits_final.json").write_text(
                json.dumps([{"train": NAMES[1:], "val": NAMES[:1]}])
            ),
            "the split has changed: training before, held out now: cube_00",
        ),
    ],
)
def test_other_data_are_refused_and_nothing_is_touched(given, change, words):
    before = given.weights(), given.records(), given.held_out()
    change(given)
    with pytest.raises(MedfuseError, match=words) as refused:
        given.run("train.steps=8")
    assert "--set name=" in refused.value.lines[-1]
    assert "--retrain" in refused.value.lines[-1]
    assert (given.weights(), given.records(), given.held_out()) == before


def test_retrained_it_is_a_run_on_the_new_data(given, tmp_path):
    change_label(given)
    (given.folder / "my notes.txt").write_text("kept")
    given.run(retrain=True)
    fresh = run_pipeline(given.pipeline, runs=tmp_path / "fresh", reporter=Reporter(quiet=True)).folder
    assert load_weights(fresh / "weights_last.safetensors")[1] == load_weights(
        given.folder / "weights_last.safetensors"
    )[1] | {"trained": load_weights(fresh / "weights_last.safetensors")[1]["trained"]}
    for name in ("data.json", "plan.json", "fingerprint.json", "pipeline.json"):
        assert (fresh / name).read_text() == (given.folder / name).read_text()
    assert (given.folder / "my notes.txt").read_text() == "kept"
    assert "trained already" in given.run()


def test_a_refused_retraining_leaves_what_is_there(given):
    before = {p: file_hash(p) for p in given.folder.rglob("*") if p.is_file()}
    (given.data / "labelsTr" / "cube_00.nii.gz").write_bytes(b"no image")
    with pytest.raises(MedfuseError, match="cube_00"):
        given.run(retrain=True)
    write_case(given.data, "cube_00")
    with pytest.raises(MedfuseError, match=r"backbones\.none"):
        given.run("train.parts={'backbones.none.*': {freeze: always}}", retrain=True)
    assert {p: file_hash(p) for p in given.folder.rglob("*") if p.is_file()} == before


def test_another_pipeline_may_replace_it_too(given):
    given.run("seed=2", retrain=True)
    assert json.loads((given.folder / "lock.json").read_text())["seed"] == 2
    with pytest.raises(MedfuseError, match="another pipeline"):
        given.run()


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.backbones.encoder.stages=9",),
        ("sample.batch_size=3", "sample.patch_size=[20,20,20,20]"),
        ("split.fold=7",),
        ("model.transfer.encoder.weights=nowhere.safetensors",),
    ],
)
def test_a_refused_first_run_leaves_the_name_free(tmp_path, overrides):
    pipeline = write_pipeline(tmp_path / "cubes.yaml", write_dataset(tmp_path / "data"))
    with pytest.raises(MedfuseError):
        run_pipeline(pipeline, overrides, runs=tmp_path / "runs", reporter=Reporter(quiet=True))
    assert not (tmp_path / "runs" / "cubes").exists()


def test_what_a_start_leaves_without_weights_binds_nothing(given):
    for name in ("weights_last.safetensors", "weights_best.safetensors", "training_state.pt"):
        (given.folder / name).unlink()
    (given.folder / "training_state.previous.pt").unlink(missing_ok=True)
    (given.folder / "pipeline.json").write_text("{")
    change_label(given)
    given.run("seed=2")
    assert json.loads((given.folder / "lock.json").read_text())["seed"] == 2


def test_a_longer_budget_says_what_follows_it_and_notes_both(given):
    started = json.loads((given.folder / "lock.json").read_text())["started"]
    said = given.run("train.steps=6")
    assert "the budget was 4 steps and is 6 steps; training goes on from step 4" in said
    assert "the learning rate (0 → 0.0037), the weights of auxiliary heads" in said
    lock = json.loads((given.folder / "lock.json").read_text())
    assert lock["started"] == started
    assert [(one["from_step"], one["train"]["steps"]) for one in lock["stretches"]] == [(0, 4), (4, 6)]
    text = (given.folder / "resolved.yaml").read_text()
    assert "#   from step 0: budget steps 4" in text
    assert "#   from step 4: budget steps 6" in text
    assert yaml.safe_load(text)["train"]["steps"] == 6


def test_a_shorter_budget_is_finished_and_changes_no_record(given):
    before = given.weights(), given.records()
    assert "trained already: 4 steps in" in (said := given.run("train.steps=2"))
    assert "the budget is 2 steps" in said
    assert (given.weights(), given.records()) == before


@pytest.mark.parametrize(
    ("budget", "goes_on"),
    [("minutes={less}", False), ("minutes={more}", True), ("epochs=1", False), ("epochs=3", True)],
)
def test_a_budget_of_another_kind_is_compared_by_what_was_done(given, budget, goes_on):
    minutes = read_state(given.folder)["progress"]["seconds"] / 60
    budget = budget.format(less=minutes / 2, more=minutes + 0.02)
    said = given.run(f"train.{budget}", "train.steps=null")
    assert ("training goes on from step 4" in said) == goes_on
    assert ("trained already" in said) != goes_on


def test_with_a_constant_rate_two_budgets_are_as_one(tmp_path):
    pipeline = write_pipeline(tmp_path / "cubes.yaml", write_dataset(tmp_path / "data"))
    still = ["train.decay=none", "model.aux=null", "train.deterministic=true", "train.validation_cases=0"]

    def train(steps: int, runs: str) -> tuple[str, str]:
        said = io.StringIO()
        where = run_pipeline(
            pipeline, [*still, f"train.steps={steps}"], runs=tmp_path / runs, reporter=Reporter(said)
        ).folder
        return file_hash(where / "weights_last.safetensors"), said.getvalue()

    train(4, "two")
    two, said = train(8, "two")
    assert "nothing else depends on it, so the weights become those of one training of 8 steps" in said
    assert two == train(8, "one")[0]


def test_judging_again_changes_no_record_and_says_how_it_judged(given):
    before = given.records()
    given.run("infer.overlap=0.25")
    assert given.records() == before
    summary = json.loads((given.folder / "summary.json").read_text())
    assert any("infer.overlap was 0.5, is 0.25" in note for note in summary["notes"])


def test_a_run_that_goes_on_has_no_judgement_of_its_older_weights(given, monkeypatch):
    def stopped(*_: object, **__: object) -> None:
        assert not (given.folder / "summary.json").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("medfuse.train.loop.fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        given.run("train.steps=6")
    assert not (given.folder / "report.html").exists()


def test_weights_that_came_from_elsewhere_are_not_trained_over(tmp_path, given):
    other = tmp_path / "runs" / "imported"
    other.mkdir()
    shutil.copy(given.folder / "weights_last.safetensors", other)
    with pytest.raises(MedfuseError, match="holds weights that no training here made"):
        given.run("name=imported")


def test_folds_are_held_to_their_data_too(given, medfuse):
    words = ("run", given.pipeline, "--folds", "0", "--runs", given.folder.parents[1] / "cv", "-q")
    assert medfuse(*words).code == 0
    change_label(given)
    refused = medfuse(*words)
    assert refused.code == 2
    assert "fold_0: 1 case has a changed label: cube_00" in refused.err
    assert medfuse(*words, "--retrain").code == 0


def test_a_refused_cross_validation_leaves_the_name_free(given, medfuse):
    words = ("run", given.pipeline, "--runs", given.folder.parents[1] / "cv", "-q")
    assert medfuse(*words, "--folds", "0", "--set", "model.backbones.encoder.stages=9").code == 2
    assert medfuse(*words).code == 0


def test_the_pseudo_labelled_cases_count(given, tmp_path):
    write_case(given.data, "plain", seed=7, label=False)
    describe(given.data, NAMES)
    describe_as(given, test=["./imagesTr/plain.nii.gz"])
    given.folder = tmp_path / "pseudo" / "cubes"
    pseudo = ("train.pseudo_labels={cases: test}",)
    given.run(*pseudo)
    write_case(given.data, "plain", seed=8, label=False)
    with pytest.raises(MedfuseError, match="1 case has another image: plain"):
        given.run(*pseudo)


def test_a_teacher_that_was_trained_anew_is_told(given, tmp_path):
    teacher = tmp_path / "teacher.safetensors"
    shutil.copy(given.folder / "weights_last.safetensors", teacher)
    write_case(given.data, "plain", seed=7, label=False)
    describe_as(given, test=["./imagesTr/plain.nii.gz"])
    given.folder = tmp_path / "taught" / "cubes"
    pseudo = (f"train.pseudo_labels={{cases: test, teacher: {teacher}}}",)
    given.run(*pseudo)
    shutil.copy(given.folder / "weights_last.safetensors", teacher)
    with pytest.raises(MedfuseError, match="the weights of the teacher of pseudo-labels have changed"):
        given.run(*pseudo)


@pytest.mark.parametrize("name", ["pipeline.json", "data.json", "lock.json"])
@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '{"seed": "x", "cases": 3}', "[" * 3000, None])
def test_a_damaged_record_is_one_line_that_names_it(given, name, text):
    if text is None:
        (given.folder / name).unlink()
    else:
        (given.folder / name).write_text(text)
    with pytest.raises(MedfuseError) as refused:
        given.run()
    assert name in str(refused.value) or "another pipeline" in str(refused.value)
    assert "--retrain" in str(refused.value)


@pytest.mark.parametrize("name", ["plan.json", "fingerprint.json", "metrics.jsonl", "precision.json"])
@pytest.mark.parametrize("text", ["{", "[1]", "{}"])
def test_what_the_data_tell_again_is_written_anew(given, name, text):
    before = given.weights()
    (given.folder / name).write_text(text)
    given.run()
    assert given.weights() == before


def test_a_lost_plan_is_the_plan_that_it_was(given):
    before = (given.folder / "plan.json").read_text()
    (given.folder / "plan.json").write_text("{")
    given.run()
    assert (given.folder / "plan.json").read_text() == before


def test_holding_weights_is_what_binds(tmp_path):
    assert not holds_weights(tmp_path)
    (tmp_path / "weights_best.safetensors").touch()
    assert holds_weights(tmp_path)
