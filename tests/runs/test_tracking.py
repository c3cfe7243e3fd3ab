"""A run tells its trackers everything, goes on with what they know, and never fails for them."""

import json
import sys

import pytest

from medfuse import registry
from medfuse.runs import tracking
from medfuse.runs.tracking import flat, numbers_of

FAKE = '''
import json
import time

from pydantic import Field

from medfuse import Tracker


class Fake(Tracker):
    """Writes down what it is told.

    track: {use: fake}
    """

    fails: str = Field("", description="in what it fails")
    slow: float = Field(0.0, ge=0, description="seconds of a call")

    def begin(self, run):
        told = Told(self, run.shared / "fake.jsonl")
        told.note("begin", key=run.key, name=run.name, step=run.step, parameters=dict(run.parameters))
        return told


class Told:
    def __init__(self, plugin, path):
        self.plugin, self.path = plugin, path

    def note(self, what, **more):
        time.sleep(self.plugin.slow)
        if what == self.plugin.fails:
            raise ConnectionError("nobody answers")
        with self.path.open("a") as file:
            file.write(json.dumps({"what": what, **more}) + "\\n")

    def log(self, step, numbers):
        self.note("log", step=step, numbers=dict(numbers))

    def finish(self, summary, files):
        self.note("finish", summary=dict(summary), files=[str(f) for f in files])

    def stop(self):
        self.note("stop")
'''


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A package with a tracker `fake` is installed."""
    site = tmp_path / "site"
    info = site / "fakes-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fakes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[medfuse.trackers]\nfake = fakes_code:Fake\n")
    (site / "fakes_code.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(site))
    registry.forget()
    yield
    registry.forget()
    sys.modules.pop("fakes_code", None)


@pytest.fixture
def run(fake, finished_run, tmp_path, medfuse, plain_report):
    """Runs the tiny pipeline with further words into folders of this test."""
    runs = tmp_path / "runs"

    def run(*words):
        said = medfuse("run", finished_run.pipeline, "--runs", runs, "-q", *words)
        assert said.code == 0, said.err
        path = runs / "fake.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    run.folder = runs / "cubes"
    return run


def test_a_tracker_is_told_parameters_numbers_summary_and_report(run):
    begin, *logs, finish = run("--set", "track=fake")
    assert begin["parameters"]["train.steps"] == 4
    assert begin["parameters"]["data.use"] == "decathlon"
    assert {row["step"] for row in logs} == {1, 2, 3, 4}
    assert {"loss", "dice"} <= {name for row in logs for name in row["numbers"]}
    assert set(finish["summary"]) >= {"Dice", "Dice/cube"}
    assert finish["files"] == [str(run.folder / "report.html")]


def test_a_run_that_is_carried_on_goes_on_under_its_key(run):
    first = run("--set", "track=fake", "--set", "train.steps=2")
    told = run("--set", "track=fake")[len(first) :]
    assert told[0]["what"] == "begin"
    assert (told[0]["key"], told[0]["step"]) == (first[0]["key"], 2)
    assert {row["step"] for row in told if row["what"] == "log"} == {3, 4}


def test_a_run_that_is_trained_anew_has_another_key(run):
    first = run("--set", "track=fake")
    again = run("--set", "track=fake", "--retrain")
    assert again[len(first)]["key"] != first[0]["key"]


def test_a_tracker_that_is_named_later_is_told_what_was_logged_before(run):
    assert run() == []
    _, *logs, finish = run("--set", "track=fake")
    assert [row["step"] for row in logs] == [1, 2, 3, 4]
    assert finish["summary"]


@pytest.mark.parametrize("fails", ["begin", "log", "finish"])
def test_a_tracker_that_fails_is_one_line_and_the_run_is_whole(
    fails, fake, finished_run, tmp_path, medfuse, plain_report
):
    said = medfuse(
        "run",
        finished_run.pipeline,
        "--runs",
        tmp_path / "runs",
        "--set",
        f"track={{use: fake, fails: {fails}}}",
    )
    assert said.code == 0
    lines = [line for line in said.err.splitlines() if line.startswith("track:")]
    assert lines == ["track: fake: ConnectionError: nobody answers; the run goes on without it"]
    assert (tmp_path / "runs" / "cubes" / "summary.json").is_file()


def test_a_tracker_that_does_not_answer_is_not_waited_for(run, monkeypatch):
    monkeypatch.setattr(tracking, "SECONDS", 0.05)
    assert run("--set", "track={use: fake, slow: 600}") == []
    assert (run.folder / "summary.json").is_file()


def test_several_trackers_are_told_each(run, tmp_path):
    told = run("--set", "track=[fake, {use: fake, fails: log}]")
    assert sum(row["what"] == "begin" for row in told) == 2
    assert sum(row["what"] == "finish" for row in told) == 1


def test_a_run_that_fails_tells_them_to_stop(run, monkeypatch, finished_run, medfuse, tmp_path):
    from medfuse.core.errors import DataError
    from medfuse.runs import stages

    def refuse(run):
        raise DataError("a disk is full")

    monkeypatch.setattr(stages, "predict_held_out", refuse)
    said = medfuse("run", finished_run.pipeline, "--runs", tmp_path / "runs", "--set", "track=fake")
    assert said.code == 2
    told = [json.loads(line) for line in (tmp_path / "runs" / "fake.jsonl").read_text().splitlines()]
    assert told[-1]["what"] == "stop"


def test_who_is_told_makes_it_no_other_run(run):
    run("--set", "track=fake")
    assert run("--set", "track=[]")[-1]["what"] == "finish"


def test_a_tracker_that_there_is_not_is_told_with_its_place(medfuse, finished_run, tmp_path):
    file = tmp_path / "cubes.yaml"
    file.write_text(finished_run.pipeline.read_text() + "track: [mlflo]\n")
    said = medfuse("check", file)
    assert said.code == 2
    assert f"{file}:14:9: track[0]" in said.err
    assert "did you mean 'mlflow'" in said.err


def test_a_package_that_lacks_is_named_with_what_to_install(
    run, monkeypatch, finished_run, medfuse, tmp_path
):
    def lacks(package):
        raise ModuleNotFoundError(f"No module named '{package}'", name=package)

    monkeypatch.setattr("medfuse.builtin.trackers.mlflow.import_offline", lacks)
    said = medfuse("run", finished_run.pipeline, "--runs", tmp_path / "runs", "--set", "track=mlflow")
    assert said.code == 0
    assert 'pip install "medfuse[mlflow]"' in said.err


def test_values_are_named_by_dots():
    values = {"a": {"b": [1, 2], "c": None, "d": [{"e": True}]}, "f": 0.5, "g": []}
    assert flat(values) == {"a.b": "1, 2", "a.d.0.e": True, "f": 0.5, "g": ""}


def test_a_summary_is_numbers_that_are_defined():
    summary = {
        "foreground_mean": {"Dice": 0.5, "HD95": None},
        "labels": {"cube": 1, "none": 2},
        "mean": {"1": {"Dice": 0.5, "HD95": 3.0, "NSD": None}, "2": {"Dice": None}},
    }
    assert numbers_of(summary) == {"Dice": 0.5, "Dice/cube": 0.5, "HD95/cube": 3.0}
