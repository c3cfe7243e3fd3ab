"""What the Dockerfile names is there: paths, extras, the command and its words, where health is asked."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
TEXT = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text()))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def steps(word: str) -> list[str]:
    """What stands behind an instruction, each time."""
    return re.findall(rf"^{word}\s+(.+?)\s*$", TEXT, re.MULTILINE)


def test_what_is_copied_is_there_and_not_ignored():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    copied = [shlex.split(step)[:-1] for step in steps("COPY") if "--from" not in step]
    names = {name for some in copied for name in some}
    assert names == allowed
    assert all((ROOT / name).exists() for name in names)


def test_a_wheel_needs_nothing_that_is_not_copied():
    project = PROJECT["project"]
    copied = " ".join(steps("COPY"))
    for name in (
        project["readme"],
        *project["license-files"],
        *PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"],
    ):
        assert name.split("/")[0] in copied.split()


def test_its_extras_its_torch_and_its_python_are_those_of_the_project():
    (extras,) = re.findall(r"\.whl\)\[([a-z,]+)\]", TEXT)
    assert {"serve"} <= set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    assert re.search(r"^torch==\S+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    bases = [re.match(r"python:([0-9.]+)-slim", step)[1] for step in steps("FROM")]
    assert len(set(bases)) == 1
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(bases[0])


def test_what_it_starts_is_a_command_with_words_that_there_are():
    from medfuse.cli import app

    (entry,), words = json.loads(steps("ENTRYPOINT")[0]), json.loads(steps("CMD")[0])
    assert entry in PROJECT["project"]["scripts"]
    said = CliRunner().invoke(app, [words[0], "--help"], env={"COLUMNS": "200"}).output
    assert all(word in said for word in words if word.startswith("--"))
    port = words[words.index("--port") + 1]
    assert steps("EXPOSE") == [port]
    assert words[words.index("--host") + 1] == "0.0.0.0", "the world outside is not the container's loopback"


def test_its_health_is_asked_where_the_service_says_it():
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from medfuse.service.door import OPEN

    (check,) = steps("HEALTHCHECK")
    path = re.search(r"http://127\.0\.0\.1:8000(/\w+)", check)[1]
    assert path in OPEN, "without a token"


def test_it_runs_as_no_root_and_holds_no_token():
    assert [user for user in steps("USER") if user not in ("root", "0")] == ["1000"]
    assert TEXT.index("USER") < TEXT.index("ENTRYPOINT")
    assert not re.search(r"(ENV|ARG)[^\n]*TOKEN", TEXT)
