"""Pseudo-labels: what counts as one, what the student learns from it, and where the cases come from."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from phantoms import write_case, write_dataset, write_pipeline
from torch import nn

from medfuse import CheckpointError, DataError, PipelineError
from medfuse.api import Case, DatasetInfo
from medfuse.core.reporter import Reporter
from medfuse.train.log import read_rows
from medfuse.train.loop import fit
from medfuse.train.objective import Objective
from medfuse.train.pseudo import (
    IGNORED,
    PseudoLabels,
    confident_labels,
    head_problems,
    masked_cross_entropy,
    unlabelled_cases,
)
from medfuse.train.settings import PseudoLabelSettings, TrainSettings
from medfuse.verbs.check import check_pipeline
from medfuse.verbs.run import run_pipeline

LOGITS = torch.tensor([[2.0, 0.0, -3.0], [0.0, 0.1, 3.0]]).view(1, 2, 3, 1)


def test_only_confident_voxels_are_labelled():
    assert confident_labels(LOGITS, 0.8).flatten().tolist() == [0, IGNORED, 1]


def test_at_a_confidence_of_one_nothing_passes():
    saturated = LOGITS * 1e6
    assert (confident_labels(saturated, 1.0) == IGNORED).all()
    assert (confident_labels(saturated, 0.99) != IGNORED).all()


def test_a_teacher_that_is_not_a_number_labels_nothing():
    assert (confident_labels(LOGITS * math.nan, 0.5) == IGNORED).all()


def gradient(loss, inputs: torch.Tensor) -> torch.Tensor:
    (found,) = torch.autograd.grad(loss, inputs)
    return found


def test_a_right_teacher_teaches_what_labels_teach():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    label = torch.randint(3, (2, 1, 4, 4))
    teacher = 50.0 * nn.functional.one_hot(label[:, 0], 3).movedim(-1, 1)
    taught = masked_cross_entropy(logits, confident_labels(teacher, 0.9))
    told = nn.functional.cross_entropy(logits, label[:, 0])
    assert torch.allclose(gradient(taught, logits), gradient(told, logits), atol=1e-7)


def test_ignored_voxels_have_no_gradient_and_count_in_the_mean():
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    label = torch.zeros(1, 1, 4, 4, dtype=torch.int64)
    half = label.clone()
    half[..., 2:] = IGNORED
    found = gradient(masked_cross_entropy(logits, half), logits)
    assert not found[..., 2:].any()
    whole = gradient(masked_cross_entropy(logits, label), logits)
    assert torch.allclose(found[..., :2], whole[..., :2])


def test_a_coarse_head_learns_on_its_own_grid():
    labels = torch.full((1, 1, 8, 8), IGNORED)
    labels[..., :4] = 1
    logits = torch.zeros(1, 2, 4, 4)
    assert masked_cross_entropy(logits, labels).item() == pytest.approx(math.log(2) / 2)


def images(start: int):
    for number in itertools.count(start):
        image = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(number))
        yield {"image": image + 0.1, "weak": image}


def labelled(start: int):
    for step, batch in zip(itertools.count(start), images(start + 1000)):
        yield {"image": batch["weak"] + step, "label": (batch["weak"] > 0).long()}


def pseudo(teacher=None, **settings) -> PseudoLabels:
    settings = {"begin": 0.0, "ramp": 0.0, "confidence": 0.5} | settings
    return PseudoLabels(PseudoLabelSettings(**settings), images, teacher)


class Heads(nn.Module):
    """Dropout and batch norm, so that a pass too many would be seen in the weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.drop = nn.BatchNorm2d(1), nn.Dropout(0.3)
        self.main, self.inner = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)

    def forward(self, image, aux=()):
        x = self.drop(self.norm(image))
        logits = self.main(x)
        return (logits, dict.fromkeys(aux, self.inner(x)[..., ::2, ::2])) if aux else logits


def train(folder, *, steps, pseudo=None, **settings) -> Heads:
    model = Heads()
    fit(
        model,
        fabric=Fabric(accelerator="cpu", devices=1),
        settings=TrainSettings(**{"steps": steps, "steps_per_epoch": 5, "decay": "none", **settings}),
        objective=Objective(lambda logits, label: nn.functional.cross_entropy(logits, label[:, 0])),
        batches=labelled,
        validate=lambda _: {},
        save=lambda *_: None,
        folder=folder,
        reporter=Reporter(quiet=True),
        pseudo=pseudo,
    )
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_where_nothing_is_confident_weights_are_those_without(tmp_path):
    without = train(tmp_path / "without", steps=10)
    assert same(train(tmp_path / "with", steps=10, pseudo=pseudo(confidence=1)), without)
    assert not same(train(tmp_path / "taught", steps=10, pseudo=pseudo()), without)


def test_only_the_heads_that_are_named_learn(tmp_path):
    before, without = Heads(), train(tmp_path / "without", steps=10)
    taught = train(tmp_path / "with", steps=10, pseudo=pseudo(heads=("inner",)), weight_decay=0)
    assert torch.equal(without.inner.weight, before.inner.weight)
    assert not torch.equal(taught.inner.weight, before.inner.weight)


def test_another_teacher_stays_as_it_is(tmp_path):
    teacher = Heads()
    train(tmp_path, steps=10, pseudo=pseudo(teacher))
    assert same(teacher, Heads())
    assert all(p.grad is None for p in teacher.parameters())
    assert teacher.training


def test_the_running_mean_teaches_where_there_is_one(tmp_path, monkeypatch):
    asked = []
    real = PseudoLabels.labels
    monkeypatch.setattr(
        PseudoLabels, "labels", lambda self, teacher, weak: asked.append(teacher) or real(self, teacher, weak)
    )
    model = train(tmp_path / "mean", steps=5, average=0.9, pseudo=pseudo())
    assert asked
    assert all(teacher is not model for teacher in asked)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_run_in_two_parts_ends_with_the_weights_of_one(tmp_path, average):
    def taught() -> PseudoLabels:
        return pseudo(share=0.3, begin=0.0)

    whole = train(tmp_path / "whole", steps=20, average=average, pseudo=taught())
    train(tmp_path / "parts", steps=10, average=average, pseudo=taught())
    assert same(train(tmp_path / "parts", steps=20, average=average, pseudo=taught()), whole)


def test_the_share_of_steps_and_the_ramp_are_kept():
    taught = pseudo(share=0.3, begin=0.5, ramp=0.2, weight=2.0)
    due = [step for step in range(100) if taught.draw(step, 1.0) is not None]
    assert len(due) == 30
    assert [taught.weight(t) for t in (0.4, 0.5, 0.6, 0.7, 1)] == pytest.approx([0, 0, 1, 2, 2])
    assert taught.draw(99, 0.4) is None


def test_each_step_has_its_own_batch_wherever_the_row_is_opened():
    whole, later = pseudo(share=0.3), pseudo(share=0.3)
    batches = [whole.draw(step, 1.0) for step in range(40)]
    resumed = [later.draw(step, 1.0) for step in range(20, 40)]
    pairs = [(a, b) for a, b in zip(batches[20:], resumed) if a or b]
    assert len(pairs) == 6
    assert all(torch.equal(a["weak"], b["weak"]) for a, b in pairs)


def test_the_loss_and_the_confident_share_are_logged(tmp_path):
    train(tmp_path, steps=10, pseudo=pseudo(weight=0.25))
    row = read_rows(tmp_path / "metrics.jsonl")[0]
    assert 0 < row["pseudo/confident"] <= 1
    assert row["weight/pseudo"] == 0.25
    # two of the five steps have pseudo-labels: `loss` is a mean over all, `loss/pseudo` over its own
    assert row["loss"] == pytest.approx(row["loss/main"] + 0.25 * row["loss/pseudo"] * 2 / 5, rel=1e-4)


def info(*, test=("t",), bare=()) -> DatasetInfo:
    def case(name, label=None) -> Case:
        return Case(name, (Path(f"{name}.nii"),), label)

    cases = (case("a", Path("a_label.nii")), *map(case, bare))
    return DatasetInfo(cases, {"background": 0, "x": 1}, ("CT",), (), tuple(map(case, test)))


@pytest.mark.parametrize(("cases", "names"), [("test", ["t"]), ("unlabelled", ["b"]), ("both", ["b", "t"])])
def test_unlabelled_cases_are_those_asked_for_and_never_labelled_ones(cases, names):
    found = unlabelled_cases(info(bare=("b",)), PseudoLabelSettings(cases=cases))
    assert [case.name for case in found] == names


def test_the_label_of_a_test_case_is_not_looked_at():
    told = DatasetInfo(info().cases, {}, ("CT",), (), (Case("t", (Path("t"),), Path("answer")),))
    assert unlabelled_cases(told, PseudoLabelSettings())[0].label is None


@pytest.mark.parametrize(
    ("told", "message"),
    [(info(test=()), "has no test cases and no training"), (info(test=("a",)), "share their name .* a;")],
)
def test_cases_that_cannot_be_used_are_refused(told, message):
    with pytest.raises(DataError, match=message):
        unlabelled_cases(told, PseudoLabelSettings())


def test_a_head_that_is_not_there_has_near_matches():
    (problem,) = head_problems(("main", "decoded1"), ["decoded.1"])
    assert problem.path == ("train", "pseudo_labels", "heads", 1)
    assert "did you mean 'decoded.1'?" in problem.message


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """Four labelled cubes, two test cubes, and a pipeline that learns from both."""
    home = tmp_path_factory.mktemp("pseudo")
    data = write_dataset(home / "data")
    for seed, name in ((8, "test_0"), (9, "test_1")):
        write_case(data, name, seed=seed, label=False)
    listing = json.loads((data / "dataset.json").read_text())
    listing["test"] = ["./imagesTr/test_0.nii.gz", "./imagesTr/test_1.nii.gz"]
    (data / "dataset.json").write_text(json.dumps(listing))
    file = write_pipeline(home / "cubes.yaml", data)
    settings = "{begin: 0, ramp: 0, confidence: 0.5, share: 1, heads: [main, decoded.1]}"
    file.write_text(file.read_text().replace("train: {", f"train: {{pseudo_labels: {settings}, "))
    return file


def run(file: Path, *overrides: str):
    return run_pipeline(file, overrides, runs=file.parent / "runs", reporter=Reporter(quiet=True))


def test_a_run_learns_from_test_cases_and_another_run_can_teach_it(pipeline):
    result = run(pipeline)
    rows = read_rows(result.folder / "metrics.jsonl")
    assert next(row["pseudo/confident"] for row in rows if "pseudo/confident" in row) > 0
    assert [p.name for p in (result.folder / "predictions").glob("*.nii.gz")] == ["cube_03.nii.gz"]
    assert len(json.loads((result.folder / "lock.json").read_text())["data"]) == 10
    teacher = f"train.pseudo_labels.teacher={result.folder}"
    student = run(pipeline, teacher, "train.average=0.9", "name=student")
    assert (student.folder / "report.html").exists()
    with pytest.raises(CheckpointError, match=r"not a teacher of this run.* spacing_mm"):
        run(pipeline, teacher, "name=other", "preprocess.spacing_mm=[2,2,2]")


def test_what_is_not_there_is_found_by_check(pipeline):
    wrong = ["heads=[decoded]", "teacher=nowhere", "cases=unlabelled"]
    with pytest.raises(PipelineError) as caught:
        check_pipeline(pipeline, [f"train.pseudo_labels.{each}" for each in wrong])
    for words in ("no head 'decoded'", "nowhere: no such file", "no training cases without a label"):
        assert words in str(caught.value)


def test_a_head_that_tells_what_is_in_the_patch_learns_from_no_pseudo_labels():
    assert head_problems(["main", "deep"], ["deep", "whole"], ["whole"]) == []
    (problem,) = head_problems(["whole"], ["deep", "whole"], ["whole"])
    assert "pseudo-labels are of voxels; take it out" in problem.message
