"""A run that another one taught: who may teach whom, what is learned, and that no weight of it is left."""

import io
import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from phantoms import write_dataset, write_pipeline

from medfuse.core.errors import MedfuseError, PipelineError
from medfuse.core.features import ImageInfo
from medfuse.core.reporter import Reporter
from medfuse.model.weights import load_weights
from medfuse.pipeline import load_pipeline, plan_network
from medfuse.runs.teaching import matched
from medfuse.train.log import read_rows
from medfuse.verbs.check import check_pipeline
from medfuse.verbs.run import RunResult, run_pipeline

NAMES = [f"cube_{i:02d}" for i in range(4)]
NARROW = "model.backbones.encoder.base_channels=3"
PLAIN = ("model.aux=null", "train.decay=none", "infer.runtime={use: torch, precision: fp32}")


def run(pipeline: Path, *overrides: str, runs: Path, retrain: bool = False) -> tuple[RunResult, str]:
    said = io.StringIO()
    made = run_pipeline(pipeline, [*PLAIN, *overrides], runs=runs, retrain=retrain, reporter=Reporter(said))
    return made, said.getvalue()


@dataclass
class Home:
    folder: Path
    pipeline: Path
    large: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def taught(
        self, *overrides: str, name: str = "taught", by: Path | None = None, **how
    ) -> tuple[RunResult, str]:
        teacher = f"train.teacher.run={by or self.large}"
        return run(self.pipeline, teacher, NARROW, f"name={name}", *overrides, runs=self.runs, **how)


@pytest.fixture(scope="module")
def home(tmp_path_factory, plain_report) -> Home:
    folder = tmp_path_factory.mktemp("teaching")
    data = write_dataset(folder / "cubes")
    halves = [{"train": NAMES[:2], "val": NAMES[2:]}, {"train": NAMES[2:], "val": NAMES[:2]}]
    (data / "splits_final.json").write_text(json.dumps(halves))
    pipeline = write_pipeline(folder / "cubes.yaml", data)
    large, _ = run(pipeline, "name=large", runs=folder / "runs")
    return Home(folder, pipeline, large.folder)


@pytest.fixture(scope="module")
def student(home) -> tuple[RunResult, str]:
    return home.taught()


def lines(home: Home, *overrides: str, check: bool = False) -> list[str]:
    """What is wrong with a student."""
    given = [f"train.teacher.run={home.large}", NARROW, "name=refused", *overrides]
    how = partial(check_pipeline, overrides=[*PLAIN, *given])
    with pytest.raises(MedfuseError) as caught:
        how(home.pipeline) if check else run(home.pipeline, *given, runs=home.runs)
    assert not (home.runs / "refused").exists()
    return [*caught.value.lines]


# ------------------------------------------------------------------------------------------ what is learned


def test_it_learns_probabilities_and_maps_and_says_so(home, student):
    made, said = student
    row = read_rows(made.folder / "metrics.jsonl")[0]
    learned = {name for name in row if name.startswith("loss/teacher")}
    assert learned == {f"loss/teacher/{n}" for n in ("probabilities", "decoded.1", "encoder.stages.2")}
    assert row["loss"] == pytest.approx(
        row["loss/main"]
        + row["loss/teacher/probabilities"]
        + 0.2 * (row["loss/teacher/decoded.1"] + row["loss/teacher/encoder.stages.2"]),
        rel=1e-4,
    )
    assert f"taught by {home.large}" in said
    summary = json.loads((made.folder / "summary.json").read_text())
    assert summary["teacher"]["run"] == str(home.large)
    assert summary["teacher"]["maps"] == {"decoded.1": "decoded.1", "encoder.stages.2": "encoder.stages.2"}
    assert any(note.startswith(f"taught by {home.large}") for note in summary["notes"])


def test_weights_are_those_of_the_small_network_alone(home, student):
    made, _ = student
    alone, _ = run(home.pipeline, NARROW, "name=alone", "train.steps=2", runs=home.runs)
    (taught, facts), (own, plain) = (
        load_weights(folder / "weights_last.safetensors") for folder in (made.folder, alone.folder)
    )
    assert {n: t.shape for n, t in taught.items()} == {n: t.shape for n, t in own.items()}
    assert str(home.large) not in json.dumps(facts)
    assert {*facts} == {*plain}


def test_with_weights_of_0_it_is_trained_as_without_a_teacher(home):
    silent, said = home.taught("train.teacher.weight=0", "train.teacher.maps={}", name="silent")
    without, _ = run(home.pipeline, NARROW, "name=without", runs=home.runs)
    states = [load_weights(one.folder / "weights_last.safetensors")[0] for one in (silent, without)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert "taught by" not in said


def test_a_run_in_two_parts_ends_with_the_weights_of_one(home, student):
    home.taught("train.steps=2", name="parts")
    parts, said = home.taught(name="parts")
    assert "carrying on from step 2" in said
    states = [load_weights(one.folder / "weights_last.safetensors")[0] for one in (student[0], parts)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_what_is_trained_needs_no_teacher_any_more(home, student, tmp_path):
    gone = shutil.copytree(home.large, tmp_path / "gone")
    made, _ = home.taught(name="left", by=gone)
    shutil.rmtree(gone)
    _, said = home.taught(name="left", by=gone)
    assert "trained already" in said
    with pytest.raises(PipelineError, match="no such file"):
        home.taught("train.steps=6", name="left", by=gone)
    assert made.folder.is_dir()


def test_another_teacher_makes_it_another_run(home, student):
    other, _ = run(home.pipeline, "name=other", "seed=5", runs=home.runs)
    with pytest.raises(MedfuseError, match=r"weights of the teacher \(train.teacher\) have changed"):
        home.taught(by=other.folder)
    with pytest.raises(MedfuseError, match=r"train.teacher.temperature was 2.0, is 4.0"):
        home.taught("train.teacher.temperature=4")


def test_pairs_that_are_named_are_learned(home):
    pairs = "train.teacher.maps={encoder.stages.1: encoder.stages.2, decoded: encoder.stages.0}"
    made, _ = home.taught(pairs, "train.teacher.weight=0", "train.steps=2", name="named")
    row = read_rows(made.folder / "metrics.jsonl")[0]
    learned = {name for name in row if name.startswith("loss/teacher")}
    assert learned == {"loss/teacher/encoder.stages.1", "loss/teacher/decoded"}


def test_without_a_spacing_of_its_own_it_has_its_teachers(home, tmp_path):
    coarse, _ = run(home.pipeline, "name=coarse", "preprocess.spacing_mm=[2, 2, 2]", runs=home.runs)
    made, said = home.taught("train.steps=1", name="coarse_too", by=coarse.folder)
    assert json.loads((made.folder / "plan.json").read_text())["data"]["spacing_mm"] == [2, 2, 2]
    assert "spacing_mm: 2 × 2 × 2: as its teacher, coarse, was trained" in said


def test_a_patch_that_is_left_open_is_planned_at_the_teachers_spacing(home):
    coarse, _ = run(
        home.pipeline, "name=half", "preprocess.spacing_mm=[3, 3, 4]", "train.steps=1", runs=home.runs
    )
    shape = "model.backbones.encoder.stages=auto"
    how = ("sample.patch_size=auto", "train.steps=1", shape)
    made, _ = home.taught(*how, name="half_too", by=coarse.folder)
    own, _ = run(home.pipeline, *how, NARROW, "name=own", "preprocess.spacing_mm=[3, 3, 4]", runs=home.runs)
    plans = [json.loads((one.folder / "plan.json").read_text())["data"] for one in (made, own)]
    assert plans[0]["patch_size"] == plans[1]["patch_size"]


# ------------------------------------------------------------------------------------------ maps


def graph(*overrides: str, axes: int = 3):
    text = "data={use: decathlon, root: x}", "train={steps: 1}", "model.head={input: decoded}"
    model = "model.fusion={decoded: {use: unet_decoder, inputs: [encoder.*]}}"
    from medfuse.core.document import Document
    from medfuse.pipeline import parse_pipeline

    document = Document.parse("{}", source="x", base=Path())
    for one in (*text, model, *overrides):
        document.override(one)
    return plan_network(parse_pipeline(document), ImageInfo(1, (32,) * axes, (1.0,) * axes), 2)


def unet(base: int, stages: int) -> str:
    return f"model.backbones.encoder={{use: unet_encoder, base_channels: {base}, stages: {stages}}}"


@pytest.mark.parametrize("axes", [2, 3])
def test_of_each_stride_maps_of_one_name_are_matched_the_last_first(axes):
    small, large = graph(unet(2, 3), axes=axes), graph(unet(8, 3), axes=axes)
    assert matched(small, large) == {"decoded.1": "decoded.1", "encoder.stages.2": "encoder.stages.2"}


def test_networks_of_other_depth_are_matched_by_stride():
    deep = matched(graph(unet(2, 2)), graph(unet(8, 3)))
    assert deep == {"encoder.stages.1": "encoder.stages.1"}
    renamed = graph(unet(8, 3).replace("encoder=", "other="), "model.fusion.decoded.inputs=[other.*]")
    assert matched(graph(unet(2, 3)), renamed) == {
        "decoded.1": "decoded.1",
        "encoder.stages.2": "other.stages.2",
    }


# ------------------------------------------------------------------------------------------ kinds of teachers


TOKENS = (
    "model.backbones.encoder={use: primus, channels: 24, depth: 2, heads: 2, patch: 8, grid: 2}",
    "model.taps.encoder={use: tokens, layers: [eva.blocks.1]}",
    "model.fusion={decoded: {use: concat, inputs: [encoder.eva.blocks.1]}}",
)


@pytest.mark.parametrize(
    ("name", "large", "learned"),
    [
        ("transformer", TOKENS, {"probabilities"}),
        ("frozen", ("train.parts={backbones.encoder.*: {freeze: always}}",), None),
        ("two", ("model.aux={heads: [decoded.*], schedule: {use: constant}}",), None),
    ],
)
def test_any_network_teaches_any_other(home, name, large, learned):
    teacher, _ = run(home.pipeline, *large, f"name={name}", "train.steps=1", runs=home.runs)
    aux = "model.aux={heads: [decoded.*], schedule: {use: constant}}"
    made, _ = home.taught(aux, "train.steps=1", name=f"by_{name}", by=teacher.folder)
    row = read_rows(made.folder / "metrics.jsonl")[0]
    found = {key.removeprefix("loss/teacher/") for key in row if key.startswith("loss/teacher")}
    assert found == (learned or {"probabilities", "decoded.1", "encoder.stages.2"})
    assert row["loss/decoded.1"] > 0


def test_slices_are_taught_by_a_network_of_slices(home):
    flat = "sample.patch_size=[16, 16]"
    teacher, _ = run(home.pipeline, flat, "name=flat", "train.steps=1", runs=home.runs)
    made, _ = home.taught(flat, "train.steps=1", name="by_flat", by=teacher.folder)
    assert json.loads((made.folder / "teacher.json").read_text())["maps"]


def test_of_another_patch_a_teacher_is_tried(home, monkeypatch):
    made, _ = home.taught("sample.patch_size=[24, 16, 16]", "train.steps=1", name="larger")
    assert made.folder.is_dir()

    def of_one_size(image):
        raise RuntimeError("The size of tensor a (12) must match the size of tensor b (8)")

    monkeypatch.setattr(
        "medfuse.runs.teacher_check.loaded", lambda *_: SimpleNamespace(segmenter=lambda: of_one_size)
    )
    (line,) = lines(home, "sample.patch_size=[24, 16, 16]")
    assert line.startswith("--set sample.patch_size")
    assert "takes patches of 16×16×16 alone (The size of tensor a (12)" in line


# ------------------------------------------------------------------------------------------ what is refused


def test_a_teacher_that_knows_held_out_cases_is_refused(home):
    (line,) = lines(home, "split.fold=1")
    assert "train.teacher.run" in line
    assert "was trained on 2 held-out cases of this run: cube_00, cube_01" in line
    assert "same fold" in line


def test_of_a_cross_validation_the_same_fold_teaches(home, tmp_path):
    folds = tmp_path / "folds"
    shutil.copytree(home.large, folds / "fold_0")
    made, _ = home.taught("train.steps=1", name="by_fold", by=folds)
    assert json.loads((made.folder / "teacher.json").read_text())["run"] == str(folds / "fold_0")
    with pytest.raises(PipelineError, match="holds fold_0, and this run is of fold 1"):
        home.taught("split.fold=1", name="by_fold_1", by=folds)


def test_a_model_that_does_not_say_what_trained_it_needs_a_word(home, tmp_path):
    (tmp_path / "bare").mkdir()
    weights = shutil.copy(home.large / "weights_last.safetensors", tmp_path / "bare")
    (line,) = lines(home, f"train.teacher.run={weights}")
    assert "nothing says which cases it was trained on" in line
    made, _ = home.taught("train.teacher.unseen=true", "train.steps=1", name="told", by=Path(weights))
    assert made.folder.is_dir()
    seen = lines(home, "train.teacher.unseen=true", "split.fold=1")
    assert "was trained on 2 held-out cases" in seen[0]


def test_all_that_is_wrong_is_said_at_once(home):
    said = lines(
        home,
        "preprocess.spacing_mm=[3, 3, 3]",
        "preprocess.normalize=unit",
        "train.teacher.maps={decoded.1: decoder.1, encoder.stages.1: encoder.stages.1}",
        "split.fold=1",
    )
    assert len(said) == 4
    assert [line.split(": ")[0] for line in said if "spacing" in line] == ["--set preprocess.spacing_mm"]
    assert any("of the teacher: no feature map is named 'decoder.1'" in line for line in said)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ("preprocess.spacing_mm=[3, 3, 3]", "was trained at 1.5×1.5×2 mm"),
        ("sample.patch_size=[16, 16]", "is a network of 3 axes, and this one has 2"),
        ("train.teacher.maps={decode.1: decoded.1}", "'decode.1'"),
        ("train.teacher.maps={decoded.1: encoder.*}", "name one map of the teacher"),
        ("train.frozen_maps={}", "a teacher looks at whole patches"),
        ("train.teacher.run=/nowhere", "/nowhere"),
        ("train.teacher.temperature=0", "greater than 0"),
    ],
)
def test_check_tells_before_any_image_is_opened(home, wrong, found):
    assert any(found in line for line in lines(home, wrong, check=True))


def test_check_says_who_teaches_what(home):
    given = [f"train.teacher.run={home.large}", NARROW]
    said = check_pipeline(home.pipeline, [*PLAIN, *given])
    line = next(line for line in said.splitlines() if line.startswith("taught by"))
    assert "probabilities at temperature 2 (weight 1)" in line
    assert "decoded.1 as its decoded.1 (weight 0.2)" in line


def test_other_classes_or_channels_are_refused(home, tmp_path):
    data = write_dataset(tmp_path / "two", channels=2)
    listing = json.loads((data / "dataset.json").read_text())
    listing["labels"] = {"0": "background", "1": "box"}
    (data / "dataset.json").write_text(json.dumps(listing))
    said = lines(home, f"data.root={data}", check=True)
    assert any("its channels are MRI, and those here are MRI0, MRI1" in line for line in said)
    assert any(
        "its classes are background: 0, cube: 1, and those here are background: 0, box: 1" in line
        for line in said
    )


def test_a_cascade_has_no_teacher(home, tmp_path):
    staged = tmp_path / "staged.yaml"
    whole = home.pipeline.read_text().replace("name: cubes\n", "")
    indented = "".join(f"    {line}\n" for line in whole.splitlines() if line)
    stage = "  -\n" + indented
    coarse = stage + "    preprocess: {spacing_mm: [4, 4, 4]}\n"
    fine = stage.replace("precision: fp32}", f"precision: fp32, teacher: {{run: {home.large}}}}}")
    staged.write_text("stages:\n" + coarse + fine)
    with pytest.raises(PipelineError, match="stages of a cascade are not taught by another network"):
        load_pipeline(staged)
