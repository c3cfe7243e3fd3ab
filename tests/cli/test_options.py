"""Numbers on the command line: each is a number that makes sense, or is refused in one line."""

from collections.abc import Iterator
from typing import get_args, get_type_hints

import pytest

from medfuse.cli import app, plugins_app

WORDS = {"infer": ["run", "-i", "in", "-o", "out"]}
ODD = ("nan", "inf", "-inf", "1e999", "9" * 400, "1e3", "0", "-0", "-1", "٣", "１２", "²", "1_0", "0x10")
ODD = (*ODD, "", " ", "1,5", "5\n5", "x")
MEANT = {("--port", "0"), ("--with", "0")}  # one that is free; none
AMOUNTS = ("budget", "max_memory", "max_size")


def _options() -> Iterator[tuple[str, str]]:
    """Every option of every verb that holds a number, or an amount of memory."""
    for command in (*app.registered_commands, *plugins_app.registered_commands):
        verb = command.name or command.callback.__name__
        said = get_type_hints(command.callback, include_extras=True)
        for name, kind in get_type_hints(command.callback).items():
            if {int, float} & {kind, *get_args(kind)} or name in AMOUNTS:
                said_of = [more for more in get_args(said[name])[1:] if hasattr(more, "param_decls")]
                names = [word for more in said_of for word in (more.default, *(more.param_decls or ()))]
                yield verb, next((n for n in names if str(n).startswith("--")), f"--{name.replace('_', '-')}")


@pytest.mark.parametrize(
    ("verb", "name", "odd"),
    [(verb, name, odd) for verb, name in _options() for odd in ODD if (name, odd) not in MEANT],
)
def test_an_odd_number_is_refused_in_one_line(verb, name, odd, medfuse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = medfuse(verb, *WORDS.get(verb, ["nothing"]), f"{name}={odd}")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "amount of memory" in said.err or "write a" in said.err
    assert not [*tmp_path.iterdir()]


def test_every_number_is_among_them():
    wanted = {*AMOUNTS, "devices", "nodes", "minutes", "steps", "seeds"}
    assert {name for _, name in _options()} >= {f"--{name.replace('_', '-')}" for name in wanted}


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "a.yaml", "--folds", "0,-1"),
        ("run", "a.yaml", "--folds", "²"),
        ("run",),
        ("run", "a.yaml", "--no-such"),
        ("no-such",),
        ("infer", "a", "-i", "b", "--probabilities", "no-such"),
        ("run", "a.yaml", "--devices", "1000"),
    ],
)
def test_a_mistake_in_the_words_of_a_command_is_one_line(words, medfuse):
    said = medfuse(*words)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("name", "value"), [("NODE_RANK", "x"), ("NODE_RANK", "2"), ("NODE_RANK", "²"), ("MASTER_PORT", "99999")]
)
def test_a_meeting_point_of_machines_has_whole_numbers(name, value, medfuse, monkeypatch):
    right = {"NODE_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for key, given in (right | {name: value}).items():
        monkeypatch.setenv(key, given)
    said = medfuse("run", "a.yaml", "--nodes", "2")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert f"{name}={value!r}" in said.err
