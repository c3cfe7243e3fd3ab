"""`medfuse distil`: a run, a smaller pipeline and one table; or all that is wrong, before any training."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from phantoms import write_dataset, write_pipeline

from medfuse.core.files import file_hash
from medfuse.core.reporter import Reporter
from medfuse.model.weights import load_weights
from medfuse.sharing.described import describe_run
from medfuse.verbs.compare import compare_pipelines
from medfuse.verbs.distil import distil_run
from medfuse.verbs.export import export_model
from medfuse.verbs.run import run_pipeline
from medfuse.verbs.trainings import done

NAMES = [f"cube_{i:02d}" for i in range(6)]
TORCH = "infer.runtime={use: torch, precision: fp32}"


@dataclass
class Home:
    folder: Path
    pipeline: Path
    large: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"


@pytest.fixture(scope="module")
def home(tmp_path_factory, plain_report) -> Home:
    folder = tmp_path_factory.mktemp("distil")
    data = write_dataset(folder / "cubes", cases=6)
    halves = [{"train": NAMES[:3], "val": NAMES[3:]}, {"train": NAMES[3:], "val": NAMES[:3]}]
    (data / "splits_final.json").write_text(json.dumps(halves))
    pipeline = write_pipeline(folder / "cubes.yaml", data)
    wide = ["name=large", "model.backbones.encoder.base_channels=8", TORCH]
    large = run_pipeline(pipeline, wide, runs=folder / "runs", reporter=Reporter(quiet=True))
    return Home(folder, pipeline, large.folder)


@pytest.fixture(scope="module")
def made(home):
    return distil_run(home.large, runs=home.runs, reporter=Reporter(quiet=True))


def test_one_table_holds_the_large_the_small_and_the_taught(home, made):
    rows = str(made).splitlines()[1:4]
    assert [row.split()[0] for row in rows] == [
        "large",
        "large-0.25-distilled-fold0-seed1",
        "large-0.25-alone-fold0-seed1",
    ]
    assert "multiply-adds/voxel" in str(made)
    assert "share of" in str(made) or "no share of it can be told" in str(made)
    found = json.loads((made.values["folder"] / "comparison.json").read_text())
    assert found["baseline"] == "large-0.25-alone-fold0-seed1"
    large, small = found["compute"]["large"], found["compute"]["large-0.25-distilled-fold0-seed1"]
    assert 0.15 < small / large <= 0.27
    assert {gap["label"] for gap in found["gaps"]} == {"mean foreground Dice", "cube"}
    assert (made.values["folder"] / "comparison.html").is_file()


def test_only_one_of_them_learned_from_the_large_one(home, made):
    summaries = {
        name: json.loads((folder / "summary.json").read_text())
        for name, folder in made.values["runs"].items()
    }
    learned = {name: bool(summary["teacher"]["weight"]) for name, summary in summaries.items()}
    assert learned == {"large-0.25-distilled-fold0-seed1": True, "large-0.25-alone-fold0-seed1": False}


def test_the_same_command_again_trains_nothing_and_tells_the_same(home, made):
    before = {path: path.stat().st_mtime_ns for path in home.runs.glob("*/weights_last.safetensors")}
    again = distil_run(home.large, runs=home.runs, reporter=Reporter(quiet=True))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.values["gaps"] == made.values["gaps"]


def test_what_was_killed_is_carried_on(home, made, monkeypatch):
    """Killed between the two trainings; the derived plan is there already."""

    def until_alone(training, reporter):
        if "alone" in training.folder.name:
            raise KeyboardInterrupt
        return done(training, reporter)

    elsewhere = home.folder / "killed"
    monkeypatch.setattr("medfuse.verbs.distil.done", until_alone)
    with pytest.raises(KeyboardInterrupt):
        distil_run(home.large, runs=elsewhere, reporter=Reporter(quiet=True))
    monkeypatch.undo()
    assert not [*elsewhere.glob("distillations/*/comparison.*")]
    again = distil_run(home.large, runs=elsewhere, reporter=Reporter(quiet=True))
    for name, folder in again.values["runs"].items():
        one, other = (
            load_weights(place / "weights_last.safetensors")[0] for place in (folder, home.runs / name)
        )
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_plan_of_ones_own_without_a_baseline(home):
    made = distil_run(
        home.large,
        into=str(home.pipeline),
        overrides=["train.steps=2", "train.teacher={temperature: 4, maps: {}}", TORCH],
        runs=home.runs,
        baseline=False,
        reporter=Reporter(quiet=True),
    )
    (name,) = made.values["runs"]
    assert name == "cubes-distilled-fold0-seed1"
    teacher = json.loads((home.runs / name / "teacher.json").read_text())
    assert (teacher["temperature"], teacher["maps"]) == (4, {})
    assert [c["name"] for c in made.values["candidates"]] == ["cubes-distilled-fold0-seed1", "large"]


def test_a_student_is_a_run_like_any_other(home, made, tmp_path):
    student, alone = made.values["runs"].values()
    export_model(student, tmp_path / "small.pt2", kind="torch")
    compared = compare_pipelines([student, alone], runs=tmp_path, reporter=Reporter(quiet=True))
    assert compared.values["baseline"] == "large-0.25-distilled"


def refused(medfuse, home: Home, *words: object) -> list[str]:
    before = sorted(path.name for path in home.runs.iterdir())
    said = medfuse("distil", *words, "--runs", home.runs)
    assert said.code == 2
    assert sorted(path.name for path in home.runs.iterdir()) == before
    return said.err.strip().splitlines()


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_written(medfuse, home):
    wrong = ["preprocess.spacing_mm=[3, 3, 3]", "split.fold=1", "train.teacher.maps={decoded.1: decoder.1}"]
    sets = [word for one in wrong for word in ("--set", one)]
    found = refused(medfuse, home, home.large, "--into", home.pipeline, *sets)
    assert len(found) == 3
    assert any("holds out cube_00, cube_01, cube_02, and" in line for line in found)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--into", "2"], "is no file; give a pipeline file, or a share"),
        (["--into", "nowhere.yaml"], "nowhere.yaml: is no file"),
        (["--into", "0/0"], "is no file; give a pipeline file, or a share"),
        (["--set", "split.fold=all"], "nothing is held out"),
    ],
)
def test_words_that_mean_nothing_are_refused(medfuse, home, words, found):
    assert any(found in line for line in refused(medfuse, home, home.large, *words))


def test_a_plan_that_somebody_changed_stays(medfuse, home, made):
    plan = made.values["folder"] / "plan.yaml"
    text = plan.read_text()
    plan.write_text(text + "# mine")
    (line,) = refused(medfuse, home, home.large, "-q")
    assert f"{plan}: was changed since it was planned" in line
    assert f"give --into {plan}" in line
    assert plan.read_text() == text + "# mine"
    plan.write_text(text)


def test_what_is_frozen_is_not_made_narrower(medfuse, home):
    how = ["name=still", "train.parts={backbones.encoder.*: {freeze: always}}", "train.steps=1", TORCH]
    still = run_pipeline(home.pipeline, how, runs=home.runs, reporter=Reporter(quiet=True)).folder
    assert "stand still with fresh weights" in refused(medfuse, home, still)[-1]


def test_two_stages_are_not_taught(medfuse, home, tmp_path):
    staged = tmp_path / "staged.yaml"
    stage = "".join(f"    {line}\n" for line in home.pipeline.read_text().splitlines()[1:])
    staged.write_text(f"stages:\n  -\n{stage}    preprocess: {{spacing_mm: [4, 4, 4]}}\n  -\n{stage}")
    (line,) = refused(medfuse, home, home.large, "--into", staged)
    assert "stages: are two networks, and one is taught; give a plan of one" in line
    assert line.startswith(f"{staged}:1:1")


def test_whoever_is_told_of_a_student_is_told_who_taught_it(home, made):
    said = [
        describe_run(folder, folder / "weights_last.safetensors") for folder in made.values["runs"].values()
    ]
    told = [[note for note in one.notes if note.startswith("taught by")] for one in said]
    assert [len(notes) for notes in told] == [1, 0]
    assert told[0][0].startswith("taught by large, a network of")
    assert str(home.folder) not in told[0][0]


def test_a_teacher_of_all_cases_is_refused(medfuse, home):
    how = ["name=whole", "split.fold=all", "train.steps=1", TORCH]
    whole = run_pipeline(home.pipeline, how, runs=home.runs, reporter=Reporter(quiet=True)).folder
    found = refused(medfuse, home, whole, "--into", home.pipeline)
    assert any("was trained on all cases, so none can judge its student" in line for line in found)


def test_one_file_of_weights_of_a_run_teaches(home):
    best = home.large / "weights_best.safetensors"
    how = {"overrides": ["train.steps=1", "name=best", TORCH], "runs": home.runs, "baseline": False}
    distil_run(best, into=str(home.pipeline), **how, reporter=Reporter(quiet=True))
    said = json.loads((home.runs / "best-distilled-fold0-seed1" / "teacher.json").read_text())
    assert said["sha256"] == file_hash(best)


def test_a_folder_that_is_no_run_is_refused(medfuse, home, tmp_path):
    assert "no such file" in refused(medfuse, home, tmp_path)[0]


def test_of_several_folds_one_is_to_be_given(medfuse, home, tmp_path):
    for fold in (0, 1):
        shutil.copytree(home.large, tmp_path / "folds" / f"fold_{fold}")
    assert "holds fold_0, fold_1; give one" in refused(medfuse, home, tmp_path / "folds")[0]


def test_a_model_from_elsewhere_needs_a_plan(medfuse, home, tmp_path):
    (tmp_path / "bare").mkdir()
    shutil.copy(home.large / "weights_last.safetensors", tmp_path / "bare")
    assert "give it: --into PLAN.yaml" in refused(medfuse, home, tmp_path / "bare")[0]
