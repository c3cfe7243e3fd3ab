"""A pipeline in Python is the pipeline of the file: the same values, the same errors, the same runs."""

import importlib.util
import json
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from phantoms import write_dataset, write_pipeline
from pydantic import Field
from torch import nn

import medfuse
from medfuse import experiment, registry
from medfuse.core.result import Result
from medfuse.pipeline import document_of, load_pipeline, resolved
from medfuse.searching.admitted import draw
from medfuse.searching.begin import gate_of, read_search
from medfuse.searching.combination import Space
from medfuse.space.dimensions import read_dimension
from medfuse.verbs.crews import Workers

ROOT = Path(__file__).parents[1]
PIPELINES = sorted((ROOT / "pipelines").glob("*.yaml"))


class Twice(nn.Module):
    def forward(self, x):
        return 2 * x


class Doubled(medfuse.FusionBlock):
    """The map, doubled."""

    inputs: tuple[str, ...] = Field(min_length=1, max_length=1, description="the map")

    def plan(self, inputs):
        return inputs[0]

    def build(self, inputs):
        return Twice()


@pytest.fixture
def registered():
    """Nothing that a test registers stays."""
    yield
    registry._registered.clear()


@pytest.fixture
def cubes(tmp_path):
    return write_pipeline(tmp_path / "cubes.yaml", write_dataset(tmp_path / "cubes"))


@pytest.fixture
def pipeline(cubes):
    return medfuse.Pipeline.load(cubes)


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_the_yaml_of_every_pipeline_reads_back_as_the_same(path, tmp_path):
    try:
        made = medfuse.Pipeline.load(path)
    except medfuse.PipelineError as error:
        pytest.skip(f"needs another package: {error.lines[0]}")
    again = medfuse.Pipeline.load(made.save(tmp_path / "again.yaml"))
    assert resolved(again) == resolved(made) == resolved(load_pipeline(path)[0])
    assert again == made
    assert made.with_() == made


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_the_yaml_of_every_pipeline_is_searched_as_its_file(path):
    """What is left to its default and what is said to be it are one, whatever is chosen beside."""
    try:
        pipeline, document = load_pipeline(path)
    except medfuse.PipelineError as error:
        pytest.skip(f"needs another package: {error.lines[0]}")
    if pipeline.first:
        pytest.skip("a search is of one pipeline, and these are two stages")
    node = next(iter(pipeline.model.fusion), "")
    space = {
        "loss": ["dice_ce", "tversky", {"use": "focal"}],
        "train.optimizer": ["sgd", "adamw"],
        "train.learning_rate": {"log": [1e-5, 1.0]},
        **({f"model.fusion.{node}.use": ["concat", "fpn", "hypercolumn"]} if node else {}),
    }
    dimensions = {key: read_dimension(value) for key, value in space.items()}
    a, b = (Space(one, pipeline.name, dimensions) for one in (document, document_of(pipeline)))
    assert a.prior() == b.prior()
    assert a.identity({}) == b.identity({}) == json.dumps(resolved(pipeline), sort_keys=True)
    for n in range(4):
        assert said(a, draw(dimensions, random.Random(n))) == said(b, draw(dimensions, random.Random(n)))


def said(space, values):
    """What a combination is, or what is wrong with it."""
    try:
        return space.identity(values)
    except medfuse.PipelineError as error:
        return sorted(map(str, error.problems))


def test_with_changes_what_it_is_told_and_nothing_else(pipeline):
    changed = pipeline.with_("train.clip=3", train={"learning_rate": 1e-3}, loss="tversky", name="other")
    before, after = resolved(pipeline), resolved(changed)
    assert after["train"] == {**before["train"], "clip": 3.0, "learning_rate": 1e-3}
    assert (after["loss"]["use"], after["name"]) == ("tversky", "other")
    assert {k: v for k, v in after.items() if k not in ("train", "loss", "name")} == {
        k: v for k, v in before.items() if k not in ("train", "loss", "name")
    }


def test_parameters_of_a_plugin_stay_unless_another_takes_its_place(pipeline):
    once = pipeline.with_(loss={"use": "tversky", "false_negatives": 0.9})
    assert once.with_(loss={"false_positives": 0.4}).loss.false_negatives == 0.9
    assert resolved(once.with_(loss={"use": "focal"}))["loss"]["use"] == "focal"


def test_sections_and_plugins_may_be_objects(pipeline):
    train = pipeline.train.model_copy(update={"clip": 2.0})
    loss = medfuse.plugins.losses.tversky(false_negatives=0.8)
    made = pipeline.with_(train=train, loss=loss)
    assert (made.train.clip, made.loss) == (2.0, loss)
    assert type(pipeline)(**{name: getattr(made, name) for name in type(made).model_fields}) == made


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p.with_("train.minuets=3"), "did you mean 'minutes'"),
        (lambda p: p.with_(losss="x"), "did you mean 'loss'"),
        (lambda p: p.with_(loss="tverksy"), "did you mean 'tversky'"),
        (lambda p: p.with_(train={"clip": "x"}), "train.clip"),
        (lambda p: medfuse.Pipeline(name="a"), "required key is missing; add `data:`"),
        (lambda p: p.with_(loss=object()), "name a loss"),
    ],
)
def test_mistakes_are_said_as_those_of_a_file(pipeline, make, said):
    with pytest.raises(medfuse.PipelineError, match=r".") as caught:
        make(pipeline)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p.with_(3), "3: write a text, such as 'train.epochs=5'"),
        (lambda p: p.run(folds=9), "folds=9: write numbers from 0 on"),
        (lambda p: p.run(folds="al"), "folds='al': write numbers"),
        (lambda p: p.run(folds=[]), "folds=[]: write numbers"),
        (lambda p: p.run(folds=[0, -1]), "folds=[0, -1]: write numbers"),
        (lambda p: medfuse.compare([p, 3]), "3: is no pipeline, nor the path of a file or a run"),
        (lambda p: medfuse.compare([]), "nothing is given; name two or more"),
        (lambda p: medfuse.compare([p, p], seeds=0), "seeds=0: write a whole number"),
        (lambda p: medfuse.compare([p, p], folds="all"), "folds='all': write numbers"),
    ],
)
def test_what_is_of_another_type_is_a_line_too(pipeline, make, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(medfuse.MedfuseError, match=r".") as caught:
        make(pipeline)
    assert said in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_all_mistakes_are_said_at_once(pipeline):
    with pytest.raises(medfuse.PipelineError) as caught:
        pipeline.with_(loss="tverksy", train={"clip": "x"}, namme="y")
    assert len(caught.value.lines) == 3


def test_a_registered_class_is_a_plugin_at_once(pipeline, registered):
    medfuse.register("doubled")(Doubled)
    fusion = {"twice": {"use": "doubled", "inputs": ["decoded"]}}
    made = pipeline.with_("model.head.input=twice", model={"fusion": fusion})
    assert made.model.fusion["twice"] == Doubled(inputs=("decoded",))
    assert "use: doubled" in made.yaml
    assert "twice" in made.check()
    assert registry.entries("medfuse.fusion_blocks")[0].package
    assert "doubled" in dir(medfuse.plugins.fusion_blocks)


def test_registered_again_it_takes_the_place_of_the_one_before(registered):
    medfuse.register("doubled")(Doubled)
    later = type("Doubled", (Doubled,), {"__module__": __name__, "__qualname__": "Doubled"})
    medfuse.register("doubled")(later)
    assert registry.get("medfuse.fusion_blocks", "doubled") is later
    assert len([n for n in registry.names("medfuse.fusion_blocks") if n == "doubled"]) == 1


def test_a_class_without_a_name_is_refused(pipeline):
    with pytest.raises(medfuse.MedfuseError, match=r'@medfuse.register\("doubled"\)'):
        pipeline.with_(model={"fusion": {"twice": Doubled(inputs=("image",))}})


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("concat", Doubled, "is installed; choose another name"),
        ("a b", Doubled, "in letters"),
        (3, Doubled, "in letters"),
        ("number", int, "subclasses none of medfuse.Backbone"),
    ],
)
def test_what_cannot_be_registered_is_told(registered, name, kind, said):
    with pytest.raises(medfuse.PluginError, match=said):
        medfuse.register(name)(kind)


def test_check_shows_the_graph_and_its_table(pipeline):
    said = pipeline.check()
    assert said._repr_html_().startswith("<iframe srcdoc=")
    assert "&lt;svg" in said._repr_html_()
    assert "every declared shape agrees" in said


def test_a_run_is_that_of_the_file(cubes, pipeline, tmp_path, plain_report):
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.run import run_pipeline

    of_file = run_pipeline(cubes, runs=tmp_path / "a", reporter=Reporter(quiet=True))
    ours = pipeline.run(tmp_path / "b", quiet=True)
    key = "foreground_mean"
    assert ours.values[key] == of_file.values()[key]
    again = run_pipeline(cubes, runs=tmp_path / "b", reporter=Reporter(quiet=True))  # the same run
    assert again.folder == ours.values["folder"]
    assert ours._repr_html_().startswith("<iframe")
    if importlib.util.find_spec("pandas"):
        frame = ours.frame()
        cases = ours.values["metric_per_case"]
        assert sorted({*frame["case"]}) == sorted(case["name"] for case in cases)
        assert {"label", "Dice"} <= {*frame.columns}


def test_pipelines_files_and_runs_are_compared(cubes, pipeline, tmp_path, plain_report):
    other = pipeline.with_(name="other", train={"learning_rate": 1e-4})
    said = medfuse.compare([pipeline, other], runs=tmp_path / "runs", quiet=True)
    assert said.values["baseline"] == pipeline.name
    assert medfuse.Pipeline.load(tmp_path / "runs" / "pipelines" / "other.yaml") == other
    again = medfuse.compare(
        [cubes, tmp_path / "runs" / "other-fold0-seed1"],
        runs=tmp_path / "runs",
        output=tmp_path / "out",
        quiet=True,
    )
    assert again.values["differences"] == said.values["differences"]
    assert said._repr_html_().startswith("<iframe")
    rows = said.found.rows()
    assert {row["model"] for row in rows} == {pipeline.name, "other"}
    assert {row["verdict"] for row in rows} == {None, "undecided"}


def searched(*given, monkeypatch, **options):
    """The file that a search from Python begins with, and how."""
    seen = {}

    def begin(file, **how):
        seen.update(how, file=file)
        return Result("text", {})

    monkeypatch.setattr("medfuse.verbs.search.search_pipeline", begin)
    medfuse.search(*given, quiet=True, **options)
    return seen


def test_a_space_of_python_is_that_of_the_file(cubes, pipeline, tmp_path, monkeypatch):
    losses = medfuse.plugins.losses
    space = {
        "loss": [losses.dice_ce(), losses.tversky(false_negatives=0.8), {"use": "focal"}],
        "model.aux.schedule": (medfuse.plugins.aux_schedules.constant(weight=0.5), None),
        "train.learning_rate": {"log": (1e-4, 1e-2)},
        "sample.foreground": {"range": [np.float64(0.1), np.float32(0.5)]},
    }
    file = searched(pipeline, space, trials=4, seeds=(5, 6), monkeypatch=monkeypatch, runs=tmp_path)["file"]
    own = tmp_path / "own.yaml"
    own.write_text(f"""\
pipeline: {cubes}
search:
  trials: 4
  seeds: [5, 6]
  space:
    loss: [dice_ce, {{use: tversky, false_negatives: 0.8}}, {{use: focal}}]
    model.aux.schedule: [{{use: constant, weight: 0.5}}, null]
    train.learning_rate: {{log: [1e-4, 1e-2]}}
    sample.foreground: {{range: [0.1, 0.5]}}
""")
    ours, theirs = read_search(file), read_search(own)
    assert ours.settings == theirs.settings
    assert resolved(ours.pipeline) == {
        **resolved(theirs.pipeline),
        "search": resolved(ours.pipeline)["search"],
    }
    assert medfuse.Pipeline.load(file).search == ours.settings
    gates = [gate_of(one, one.pipeline.data.read()) for one in (ours, theirs)]
    for n in range(20):
        values = draw(gates[0].space.dimensions, random.Random(n))
        assert gates[0].space.identity(values) == gates[1].space.identity(values)


def test_what_is_not_given_to_a_search_is_as_the_pipeline_has_it(pipeline, tmp_path, monkeypatch):
    made = pipeline.with_(search={"space": {"loss": ["dice_ce", "tversky"]}, "minutes": 5, "margin": 0.01})
    how = {"monkeypatch": monkeypatch, "runs": tmp_path}
    same = read_search(searched(made, **how)["file"]).settings
    assert same == made.search
    wider = read_search(searched(made, {"loss": ["focal", "dice_ce"]}, minutes=9, **how)["file"]).settings
    assert (wider.space, wider.minutes, wider.margin) == ({"loss": ["focal", "dice_ce"]}, 9, 0.01)


def test_a_file_is_searched_as_the_command_does(cubes, tmp_path, monkeypatch):
    text = f"pipeline: {cubes}\nsearch: {{trials: 4, space: {{loss: [dice_ce, tversky]}}}}\n"
    own = tmp_path / "wide.yaml"
    own.write_text(text)
    how = {"monkeypatch": monkeypatch, "runs": tmp_path / "runs"}
    assert searched(own, **how)["file"] == own
    more = read_search(searched(own, trials=7, **how)["file"])
    assert (more.name, more.settings.trials, more.settings.space["loss"]) == (
        "wide",
        7,
        ["dice_ce", "tversky"],
    )
    fresh = read_search(searched(cubes, {"loss": ["tversky"]}, trials=3, **how)["file"])
    assert (fresh.name, fresh.settings.trials) == ("cubes", 3)


def test_mistakes_of_a_search_are_said_at_once_before_anything_is_written(pipeline, tmp_path):
    space = {"seed": [1, 2], "loss": ["a", "a"], "train.learning_rate": {"log": [0, 1]}}
    with pytest.raises(medfuse.PipelineError) as caught:
        medfuse.search(pipeline, space, trials=1, objectives=["speed"], runs=tmp_path / "runs")
    assert len(caught.value.lines) == 5
    assert not (tmp_path / "runs").exists()


def test_a_search_without_a_space_says_how_to_give_one(pipeline, tmp_path):
    with pytest.raises(medfuse.MedfuseError, match="say what may be tried"):
        medfuse.search(pipeline, runs=tmp_path / "runs")
    with pytest.raises(medfuse.PipelineError, match="required key is missing; add `space:`"):
        medfuse.search(pipeline, minutes=3, runs=tmp_path / "runs")
    with pytest.raises(medfuse.PipelineError, match="did you mean 'seeds'"):
        medfuse.search(pipeline, {"loss": ["tversky"]}, minutes=3, seds=2, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_workers_and_engine_are_those_of_the_command(pipeline, tmp_path, monkeypatch):
    engine = medfuse.plugins.engines.ray(cores=2)
    monkeypatch.setattr(type(engine), "ready", lambda engine: None)
    seen = searched(
        pipeline,
        {"loss": ["tversky"]},
        trials=2,
        workers=3,
        engine=engine,
        monkeypatch=monkeypatch,
        runs=tmp_path,
    )
    assert (seen["workers"].plugin(), seen["workers"].count) == (engine, 3)
    for verb in ("verbs.folds.run_folds", "verbs.compare.compare_pipelines"):
        monkeypatch.setattr(f"medfuse.{verb}", lambda *files, **how: seen.update(how) or Words())
    pipeline.run(tmp_path, folds="all", workers=2, quiet=True)
    assert seen["workers"] == Workers("local", (), 2)
    medfuse.compare([pipeline, "other.yaml"], workers=4, engine=engine, runs=tmp_path, quiet=True)
    assert seen["workers"] == Workers.of(engine, 4)
    with pytest.raises(medfuse.MedfuseError, match='give folds="all"'):
        pipeline.run(tmp_path, workers=2, quiet=True)


class Words:
    def result(self):
        return Result("text", {})


def test_workers_are_refused_a_plugin_of_this_process_alone(pipeline, tmp_path, registered):
    medfuse.register("doubled")(Doubled)
    fusion = {"twice": {"use": "doubled", "inputs": ["decoded"]}}
    made = pipeline.with_("model.head.input=twice", model={"fusion": fusion})
    space = {"model.fusion.decoded": [Doubled(inputs=("image",)), {"use": "fpn", "inputs": ["encoder.*"]}]}
    for begin in (
        lambda: made.run(tmp_path, folds="all", workers=2),
        lambda: medfuse.compare([made, pipeline], workers=2, runs=tmp_path),
        lambda: medfuse.search(pipeline, space, trials=3, workers=2, runs=tmp_path),
    ):
        with pytest.raises(medfuse.MedfuseError, match="doubled: registered in this process alone"):
            begin()


def test_a_result_without_a_table_says_so():
    with pytest.raises(medfuse.MedfuseError, match="holds no table"):
        Result("text", {}).frame()


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, registered):
    """Every cell of docs/notebook.md but the one that runs, in one process; its search only begins."""
    tried = []

    def begin(file, **how):
        asked = read_search(file)
        gate_of(asked, asked.pipeline.data.read()).refuse_hopeless()
        return tried.append(asked.settings)

    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(tmp_path))
    seen: dict = {"__name__": "notebook_page"}
    monkeypatch.setitem(sys.modules, "notebook_page", type(nn)("notebook_page"))
    cells = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "notebook.md").read_text(), re.DOTALL)
    assert len(cells) == 5
    assert ".run()" in cells.pop(3)
    save = experiment._saved
    monkeypatch.setattr(experiment, "_saved", lambda pipeline, runs: save(pipeline, tmp_path))
    monkeypatch.setattr("medfuse.verbs.search.search_pipeline", begin)
    for cell in cells:
        exec(compile(cell, "docs/notebook.md", "exec"), seen)
    assert "gate" in seen["gated"].yaml
    assert tried[0].space["loss"][1:] == ["tversky", {"use": "tversky", "false_negatives": 0.8}]


def test_folds_are_those_of_the_file(pipeline, tmp_path, plain_report):
    said = pipeline.run(tmp_path / "runs", folds="all", quiet=True)
    assert (tmp_path / "runs" / pipeline.name / "fold_0" / "weights_last.safetensors").exists()
    assert said.values["folder"] == tmp_path / "runs" / pipeline.name
    assert {"case", "fold", "label", "Dice"} <= {*said.found.rows()[0]}
    assert "Dice of every held-out case" in said._repr_html_()
