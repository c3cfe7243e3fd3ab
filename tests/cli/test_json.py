"""What every verb prints is one JSON document where --json is given, its mistakes too."""

import ast
import inspect
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
from phantoms import write_dataset, write_pipeline

from medfuse.cli import app, plugins_app
from medfuse.core.result import Result, plain, problem


def commands():
    """Every verb: its words, and the function behind it."""
    named = [("", app), ("plugins ", plugins_app)]
    found = [
        (prefix + (command.name or command.callback.__name__), command.callback)
        for prefix, group in named
        for command in group.registered_commands
    ]
    return dict([*found, ("plugins", plugins_app.registered_callback.callback)])


def strictly(text):
    """One document and nothing else, without NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize("verb", sorted(commands()))
def test_a_verb_takes_json_and_prints_by_what_it_returns(verb):
    function = commands()[verb]
    returned = get_type_hints(function)["return"]
    assert returned in (Result, Result | None, type(None)), f"{verb} returns no Result"
    if returned is not type(None):
        assert "as_json" in inspect.signature(function).parameters, f"{verb}: wrap it in `printed`"
    body = ast.parse(inspect.getsource(inspect.unwrap(function)).replace("@", "#@"))
    called = {n.func.id for n in ast.walk(body) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert "print" not in called, f"{verb} prints; let it return a Result"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    made = tmp_path_factory.mktemp("json")
    return write_pipeline(made / "cubes.yaml", write_dataset(made / "cubes"))


def words(home, run, out):
    data, images = run.data, run.data / "imagesTr"
    return {
        "check": ["check", home],
        "taps": ["taps", home],
        "doctor": ["doctor", data, "-q"],
        "schema": ["schema"],
        "schema -o": ["schema", "-o", out],
        "cache": ["cache", "--runs", run.folder.parent],
        "cache --clear": ["cache", "--runs", out, "--clear", "all"],
        "plugins": ["plugins"],
        "plugins list": ["plugins", "list", "--describe"],
        "plugins show": ["plugins", "show", "spp"],
        "plugins new": ["plugins", "new", "loss", "mine", "-o", out],
        "infer": ["infer", run.folder, "-i", images, "-o", out / "labels", "-q"],
        "infer --explain": ["infer", run.folder, "-i", images, "--explain"],
        "features": ["features", run.folder, "-l", "encoder.*", "-i", images, "-o", out / "maps"],
        "evaluate": ["evaluate", data / "labelsTr", data / "labelsTr", "-o", out],
        "export": ["export", run.folder, "--format", "torch", "-o", out],
        "run": ["run", run.pipeline, "--runs", out / "runs"],
    }


LONGER = {
    "probe": lambda run, out: ["probe", run.pipeline, "--steps", 20, "--runs", out],
    "init": lambda run, out: ["init", run.data, "-o", out / "new.yaml", "--minutes", 0.1, "--no-trials"],
    "compare": lambda run, out: ["compare", run.pipeline, out / "b.yaml", "--runs", out, "-o", out / "c"],
}


@pytest.mark.slow
@pytest.mark.parametrize("verb", LONGER)
def test_verbs_that_take_longer_print_one_document_too(verb, finished_run, tmp_path, medfuse):
    (tmp_path / "b.yaml").write_text(finished_run.pipeline.read_text().replace("name: cubes", "name: b"))
    said = medfuse(*LONGER[verb](finished_run, tmp_path), "--json")
    assert strictly(said.out)
    assert said.code == 0


def test_series_are_a_document(medfuse, tmp_path):
    import scanner

    scanner.write(tmp_path / "scan", scanner.voxels())
    (series,) = strictly(medfuse("series", tmp_path, "--json").out)["series"]
    assert series["voxels"] == list(scanner.voxels().shape)


VERBS = [*words(Path(), type("Run", (), {"data": Path(), "folder": Path(), "pipeline": Path()}), Path())]


@pytest.mark.parametrize("verb", VERBS)
def test_stdout_is_one_document_and_the_exit_code_that_of_the_text(
    verb, home, finished_run, tmp_path, medfuse, plain_report
):
    given = words(home, finished_run, tmp_path)[verb]
    said = medfuse(*given, "--json")
    found = strictly(said.out)
    assert isinstance(found, dict)
    assert said.code == (1 if found.get("findings") else 0)
    assert found


def test_values_say_what_the_text_says(home, finished_run, medfuse, tmp_path):
    found = strictly(medfuse("check", home, "--json").out)
    text = medfuse("check", home).out
    assert all(feature["name"] in text for feature in found["features"])
    assert f"{found['parameters']:,} parameters" in text
    folders = [finished_run.data / "labelsTr"] * 2
    labels = strictly(medfuse("evaluate", *folders, "-o", tmp_path, "--json").out)
    assert labels["foreground_mean"]["Dice"] == 1.0


@pytest.mark.parametrize(
    ("given", "file", "line", "said"),
    [
        (["check", "bad.yaml"], "bad.yaml", 1, "model"),
        (["check", "none.yaml"], "none.yaml", None, "no such file"),
        (["run"], None, None, "Missing argument"),
        (["no-such-verb"], None, None, "no command"),
        (["plugins", "show", "spq"], None, None, "did you mean 'spp'"),
        (["infer", "none", "-i", "x", "-o", "y"], None, None, ""),
        (["doctor", "none"], None, None, "no such file or folder"),
    ],
)
def test_what_is_wrong_is_a_document_too_with_its_place(
    given, file, line, said, medfuse, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("modle: {}\n")
    plainly, told = medfuse(*given), medfuse(*given, "--json")
    found = strictly(told.out)
    assert (told.code, told.err, plainly.out) == (plainly.code, plainly.err, "")
    assert found["exit_code"] == told.code == 2
    assert any(said in error["message"] for error in found["errors"])
    if file:
        assert found["errors"][0]["file"] == file
        assert found["errors"][0]["line"] == line


def test_a_folder_that_is_judged_in_part_says_what_was_found_all_the_same(finished_run, medfuse, tmp_path):
    import shutil

    source = finished_run.data / "labelsTr"
    shutil.copytree(source, tmp_path / "predicted")
    next((tmp_path / "predicted").iterdir()).write_bytes(b"no image")
    said = medfuse("evaluate", tmp_path / "predicted", source, "--json")
    found = strictly(said.out)
    assert said.code == 2
    assert found["errors"]
    assert found["foreground_mean"]["Dice"] == 1.0


class Colour(Enum):
    RED = "red"


@dataclass
class Box:
    path: Path
    size: tuple[int, ...]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (math.nan, None),
        ([math.inf, -math.inf, 1.5], [None, None, 1.5]),
        (np.float32("nan"), None),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.int64(3), 3),
        (True, True),
        (Colour.RED, "red"),
        (Box(Path("a/b"), (1, 2)), {"path": "a/b", "size": [1, 2]}),
        ({1: {3, 2}}, {"1": [2, 3]}),
        (os.fsdecode(b"caf\xe9"), "caf�"),
        (Result("text", {}), "text"),
        ((n for n in range(2)), [0, 1]),
    ],
)
def test_any_value_becomes_valid_json(value, wanted):
    assert plain(value) == wanted
    assert json.loads(Result("", {"x": wanted}).json) == {"x": wanted}


@pytest.mark.parametrize(
    ("line", "file", "place"),
    [
        ("liver.yaml:32:20: model: no", "liver.yaml", (32, 20)),
        ("data/cases.csv:3: fold is 'x'", "data/cases.csv", (3, None)),
        ("runs/liver/a.json: is damaged", "runs/liver/a.json", (None, None)),
        ("C:\\scans\\a.nii: is damaged", None, (None, None)),
        ("--set train.x: no such key", None, (None, None)),
        ("case a: label spacing differs", None, (None, None)),
    ],
)
def test_a_line_is_told_by_its_parts(line, file, place):
    found = problem(line)
    assert (found["file"], (found["line"], found["column"])) == (file, place)
    assert line.endswith(found["message"])


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "code"), [(2, 0), ("nan", 2)])
def test_processes_that_train_together_print_one_document(steps, code, finished_run, tmp_path):
    words = ["run", finished_run.pipeline, "--devices", "2", "--runs", tmp_path, "--json"]
    command = [sys.executable, "-m", "medfuse", *map(str, words), "--set", f"train.steps={steps}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    found = strictly(done.stdout)
    assert found["cases"] == 1 if code == 0 else found["exit_code"] == 2
