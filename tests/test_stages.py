"""A file with two `stages`: how its sections are put together, and what is wrong with one, in one line."""

from pathlib import Path

import pytest
import yaml
from phantoms import write_dataset

from medfuse import MedfuseError
from medfuse.pipeline import Pipeline, load_pipeline, load_stages, resolved, with_stages
from medfuse.verbs.check import check_pipeline

TWO = """\
data: {use: decathlon, root: data}
model:
  backbones:
    encoder: {use: unet_encoder, base_channels: 4, stages: 2}
  fusion:
    decoded: {use: unet_decoder, inputs: [encoder.*]}
  head: {input: decoded}
stages:
  - preprocess: {spacing_mm: [3, 3, 4]}
    sample: {patch_size: [8, 8, 8]}
    train: {steps: 3}
  - preprocess: {spacing_mm: [1.5, 1.5, 2]}
    sample: {patch_size: [16, 16, 16]}
    train: {steps: 5}
"""


@pytest.fixture
def two(tmp_path) -> Path:
    write_dataset(tmp_path / "data", cases=4)
    (tmp_path / "two.yaml").write_text(TWO)
    return tmp_path / "two.yaml"


def refused(file, *overrides) -> str:
    with pytest.raises(MedfuseError) as error:
        check_pipeline(file, overrides)
    return str(error.value).replace(f"{file.parent}/", "")


def test_sections_outside_are_of_both_and_a_stages_own_count_before(two):
    first, second = (pipeline for pipeline, _ in load_stages(two))
    assert first.model == second.model
    assert (first.train.steps, second.train.steps) == (3, 5)
    assert (first.name, second.name) == ("two.before", "two")
    assert second.first == first
    assert second.cascade.folds == 3
    assert load_pipeline(two)[0] == second


def test_one_pipeline_is_of_one_stage(two):
    values = yaml.safe_load(TWO)
    two.write_text(yaml.dump({**{k: v for k, v in values.items() if k != "stages"}, **values["stages"][1]}))
    ((pipeline, _),) = load_stages(two)
    assert (pipeline.first, pipeline.cascade) == (None, None)


def test_check_shows_the_graphs_of_both(two):
    said = check_pipeline(two, ["cascade.shown=true"])
    assert "stage 1 of 2" in said
    assert "stage 2 of 2" in said
    first, second = said.values["stages"]
    assert [row["channels"] for row in (first["features"][0], second["features"][0])] == [1, 2]
    assert (first["patch_size"], second["patch_size"]) == ((8, 8, 8), (16, 16, 16))


def test_a_set_changes_one_stage(two):
    first, second = (p for p, _ in load_stages(two, ["stages.0.train.steps=9", "stages[1].seed=4"]))
    assert (first.train.steps, second.train.steps) == (9, 5)
    assert (first.seed, second.seed) == (1, 4)


def test_a_set_in_a_section_of_both_changes_it_for_that_stage_alone(two):
    first, second = (p for p, _ in load_stages(two, ["stages.0.model.head.input=encoder.stages.0"]))
    assert (first.model.head.input, second.model.head.input) == ("encoder.stages.0", "decoded")
    assert first.model.backbones == second.model.backbones


def test_what_is_resolved_reads_back_as_both(two, tmp_path):
    _, (pipeline, _) = load_stages(two, ["cascade.shown=true"])
    again = tmp_path / "again.yaml"
    again.write_text(yaml.dump(with_stages(resolved(pipeline), pipeline)))
    read = load_pipeline(again)[0]
    assert read == pipeline


def test_a_cascade_is_changed_in_python_too(two):
    from medfuse.experiment import Pipeline as Experiment

    made = Experiment.load(two).with_("stages.0.train.steps=9", "cascade.shown=true")
    assert (made.first.train.steps, made.train.steps) == (9, 5)
    assert made.cascade.shown
    assert "stage 2 of 2" in made.check()


def test_a_search_takes_one_pipeline(two, medfuse):
    said = medfuse("search", two, "--set", "search.space={train.learning_rate: [0.1, 0.01]}")
    assert said.code == 2
    assert "stages: two stages are here where one pipeline is wanted" in said.err


def test_the_schema_knows_stages():
    schema = Pipeline.model_json_schema()
    assert {"required": ["stages"]} in schema["anyOf"]
    stage = schema["properties"]["stages"]["items"]["properties"]
    assert "preprocess" in stage
    assert "name" not in stage


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages=[{}]"], "--set stages: there are two, one that finds and one that segments; 1 given"),
        (["stages=[{}, {}, {}]"], "--set stages: there are two"),
        (["stages=[]"], "--set stages: there are two"),
        (["stages={}"], "--set stages: are a list of two mappings"),
        (["stages=[1, 2]"], "--set stages: are a list of two mappings"),
        (["stages=null"], "--set stages: are a list of two mappings"),
        (["stages.0.name=a"], "stages[0].name: is of both stages together"),
        (["stages.1.cascade={}"], "stages[1].cascade: is of both stages together"),
        (["stages.1.split.fold=1"], "stages[1].split: is of both stages together"),
        (["train.steps=4"], "--set train.steps: train: counts for neither stage"),
        (["stages.0.preprocess.spacing_mm=[1, 3, 4]"], "[1, 3, 4] is finer than the second stage's"),
        (["stages.0.preprocess.spacing_mm=auto"], "say how coarse, such as [4, 4, 4]"),
        (["stages.0.infer.postprocess=auto"], "stages[0].infer.postprocess: is not chosen for a first stage"),
        (["stages.0.infer.overlap=auto"], "stages[0].infer.overlap: is not chosen for a first stage"),
        (["stages.0.train.stepps=3"], "stages[0].train.stepps: unknown key; did you mean 'steps'?"),
        (["stages.3.train.steps=3"], "stages is a list of 2; use a number from 0 to 1"),
        (["cascade.folds=1"], "--set cascade.folds: input should be greater than or equal to 2"),
        (["cascade.shwn=true"], "did you mean 'shown'?"),
        (["cascade.may_lose=1"], "--set cascade.may_lose: input should be less than 1"),
    ],
)
def test_a_mistake_is_one_line_at_its_place(two, overrides, message):
    said = refused(two, *overrides)
    assert message in said
    assert said.count("\n") == 0


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("steps: 3}", "stepps: 3}", "two.yaml:11:13: stages[0].train.stepps: unknown key"),
        (
            "steps: 5}",
            "steps: five}",
            "two.yaml:14:20: stages[1].train.steps: input should be a valid integer",
        ),
        ("inputs: [encoder.*]", "inputs: [encodr.*]", "two.yaml:6:43: model.fusion.decoded.inputs[0]"),
        ("    train: {steps: 5}\n", "", "two.yaml:12:5: stages[1].train: required key is missing"),
        ("stages:", "stage:", "two.yaml:8:1: stage: unknown key; did you mean 'stages'?"),
    ],
)
def test_a_mistake_in_the_file_is_told_by_line_and_column(two, old, new, line):
    two.write_text(TWO.replace(old, new))
    assert line in refused(two)


def test_a_problem_of_a_section_of_both_is_told_where_that_stands(two):
    from medfuse.core.errors import PipelineError, Problem

    document = load_pipeline(two)[1]
    paths = [("model", "head"), ("stages", 0, "model", "head"), ("stages", 0, "train", "steps"), ("infer",)]
    lines = document.located(PipelineError([Problem(path, "x") for path in paths])).lines
    places = [line.replace(f"{two.parent}/", "") for line in lines]
    assert places == [
        "two.yaml:7:3: model.head: x",
        "two.yaml:7:3: model.head: x",
        "two.yaml:11:20: stages[0].train.steps: x",
        "two.yaml:12:5: stages[1].infer: x",
    ]


def test_the_problems_of_both_stages_are_told_at_once(two):
    said = refused(two, "stages.0.train.steps=x", "stages.1.train.steps=y", "seed=z")
    assert [said.count(text) for text in ("stages[0].train", "stages[1].train", "seed")] == [1, 1, 1]


def test_a_cascade_without_stages_is_told(two):
    two.write_text(TWO.partition("\nstages:")[0] + "\ntrain: {steps: 3}\ncascade: {folds: 2}\n")
    assert refused(two).startswith("two.yaml:9:1: cascade: is of a file with `stages`")


def other_dataset(two, **changes):
    import json

    folder = write_dataset(two.parent / "other", cases=4)
    said = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**said, **changes}))
    return f"stages.0.data={{use: decathlon, root: {folder}}}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"0": "background", "1": "cube", "2": "ball"}}, "have the values 1, 2, and the second"),
        ({"labels": {"0": "background", "3": "cube"}}, "the first must find all that the second segments"),
        ({"modality": {"0": "CT"}}, "both stages see the same images"),
    ],
)
def test_stages_whose_datasets_do_not_match_are_told(two, changes, message):
    said = refused(two, other_dataset(two, **changes))
    assert message in said
    assert "stages[0].data" in said


def test_a_first_stage_may_have_a_dataset_of_its_own(two):
    labels = {"0": "background", "1": "box"}
    assert "stage 1 of 2" in check_pipeline(two, [other_dataset(two, labels=labels)])
