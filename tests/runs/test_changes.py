"""What is another now than when a run was trained, in words that name it."""

from pathlib import Path

import pytest

from medfuse.core.document import Document
from medfuse.pipeline import parse_pipeline
from medfuse.runs.changes import data_changes, identity, pipeline_changes
from medfuse.runs.records import CaseHashes, TrainedOn


def case(image="1", label="2"):
    return CaseHashes(images=(image,), label=label)


BEFORE = TrainedOn(
    labels={"background": 0, "liver": 1},
    channels=("CT",),
    region_order=(),
    ignore=None,
    train=("a", "b"),
    validation=("c",),
    cases={name: case() for name in "abc"},
    teacher=None,
)


def changed(**values):
    return data_changes(BEFORE, BEFORE.model_copy(update=values))


def test_the_same_content_is_no_change():
    assert changed() == []
    assert changed(train=("b", "a")) == []


def test_it_is_read_back_as_it_was_written():
    regions = BEFORE.model_copy(update={"labels": {"whole": (1, 2), "core": 2}, "region_order": (1, 2)})
    assert TrainedOn.model_validate_json(regions.model_dump_json()) == regions


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"channels": ("MR",)}, "the dataset's channels were CT, are MR"),
        (
            {"labels": {"background": 0, "spleen": 1}},
            "the dataset's labels were background: 0, liver: 1, are background: 0, spleen: 1",
        ),
        ({"ignore": 255}, "the dataset's ignore were None, are 255"),
        ({"region_order": (1,)}, "the dataset's region_order were none, are 1"),
        (
            {"cases": {name: case() for name in "abcde"}},
            "2 cases are new: d, e",
        ),
        ({"cases": {name: case() for name in "bc"}}, "1 case is gone, or has no label: a"),
        ({"cases": {**BEFORE.cases, "b": case(image="9")}}, "1 case has another image: b"),
        (
            {"cases": {**BEFORE.cases, "b": case(label="9"), "c": case(label="9")}},
            "2 cases have changed labels: b, c",
        ),
        ({"teacher": "9"}, "the weights of the teacher of pseudo-labels have changed"),
        (
            {"train": ("a",), "validation": ("b", "c")},
            "the split has changed: training before, held out now: b",
        ),
        ({"train": ("a",)}, "the split has changed: training before, left out now: b"),
    ],
)
def test_each_change_is_a_line_that_names_it(values, said):
    assert changed(**values) == [said]


def test_all_changes_are_told_at_once():
    assert len(changed(channels=("MR",), cases={"a": case(label="9"), "d": case()})) == 4


def test_many_cases_are_counted_and_some_are_named():
    (line,) = changed(cases={**BEFORE.cases, **{f"n{n:02d}": case() for n in range(30)}})
    assert line.startswith("30 cases are new: n00, n01")
    assert line.endswith("and 20 more")


TEXT = """
data: {use: folder, root: ROOT, classes: {a: 1}, channels: [CT]}
split: {file: ROOT/splits.json}
model:
  backbones: {encoder: {use: unet_encoder}}
  fusion: {decoded: {use: unet_decoder, inputs: [encoder.*]}}
  head: {input: decoded}
train: {steps: 4}
"""


def pipeline(root="/one", **changes):
    text = TEXT.replace("ROOT", root)
    document = Document.parse(text, source="p.yaml", base=Path("/"))
    for key, value in changes.items():
        document.override(f"{key.replace('__', '.')}={value}")
    return identity(parse_pipeline(document, default_name="p"))


def test_a_moved_dataset_is_the_same_pipeline():
    assert [*pipeline_changes(pipeline(), pipeline("/two"))] == []


@pytest.mark.parametrize("change", [{"train__steps": 8}, {"infer__overlap": 0.2}, {"train__device": "cpu"}])
def test_budget_inference_and_device_are_free(change):
    assert [*pipeline_changes(pipeline(), pipeline(**change))] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 2}, "seed was 1, is 2"),
        ({"split__seed": 3}, "split.seed was 12345, is 3"),
        ({"train__decay": "none"}, "train.decay was 'poly', is 'none'"),
        ({"loss": "focal"}, "loss.use was 'dice_ce', is 'focal'"),
    ],
)
def test_what_makes_another_run_is_named(change, said):
    assert said in [*pipeline_changes(pipeline(), pipeline(**change))]
