"""JSON within limits, and lines that say where it is not."""

import json
import os
import threading
import time
from dataclasses import dataclass

import pytest

from medfuse.core.errors import CheckpointError, DataError
from medfuse.core.json_text import DEEPEST, parse_json, read_json, validated


@pytest.mark.parametrize(
    "value", [None, 1, -1.5, "a\u2028\0[", [], {"a": [1, {"b": '\\"[[[['}]}, [[[]]], 2**63, "🫀"]
)
def test_what_json_writes_comes_back(value):
    assert parse_json(json.dumps(value), "x.json") == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode("utf-8-sig"), "x.json") == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "x.json:1:1: not valid JSON"),
        ('{\n "a": 1,\n}', "x.json:3:1: not valid JSON"),
        ("[" * 100_000, "nested more than"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested more than"),
        ('{"a": 1, "a": 2}', "the key 'a' is given twice"),
        ("NaN", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("1e999", "too large a number"),
        ("9" * 5000, "5000 digits"),
        (b"\xff\xfe{", "no text in UTF-8"),
        ("[" + "0," * 5_000_000 + "0]", "more than"),
        ("0" * (65 * 2**20), "too large to be right"),
        ('"' + "[" * 1000, "not valid JSON"),
        ('{"\\ud800": 1}', "no text in UTF-8"),
    ],
)
def test_what_is_faulty_is_one_line_and_quick(text, said):
    began = time.monotonic()
    with pytest.raises(DataError) as caught:
        parse_json(text, "x.json")
    (line,) = caught.value.lines
    assert said in line
    assert len(line) < 200
    assert "\n" not in line
    assert time.monotonic() - began < 10


def test_nesting_is_allowed_up_to_its_limit():
    assert parse_json("[" * DEEPEST + "]" * DEEPEST, "x.json")
    with pytest.raises(DataError, match="nested"):
        parse_json("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "x.json")


def test_a_file_says_its_name_and_what_to_do(tmp_path):
    path = tmp_path / "x.json"
    for make in (lambda: None, lambda: path.write_bytes(b"\xff"), lambda: path.write_text("{")):
        make()
        with pytest.raises(CheckpointError, match=r"x\.json.*; copy it again$"):
            read_json(path, raises=CheckpointError, remedy="copy it again")


def test_a_folder_a_pipe_and_an_impossible_name_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "a\0b", tmp_path / ("a" * 5000)):
        refused = []

        def read(path=path, refused=refused):
            with pytest.raises(DataError):
                read_json(path)
            refused.append(path)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(5)
        assert refused == [path]


@dataclass(frozen=True)
class Grid:
    shape: tuple[int, int]
    names: dict[str, int]


def test_typed_values_are_made_or_refused_with_their_place():
    assert validated(Grid, {"shape": [1, 2], "names": {}}, "x.json", remedy="mend it") == Grid((1, 2), {})
    with pytest.raises(DataError, match=r"^x\.json: shape\[1\]: input should be a valid integer.*; mend it$"):
        validated(Grid, {"shape": [1, "b" * 500], "names": {}}, "x.json", remedy="mend it")
    with pytest.raises(DataError, match=r"and 1 more"):
        validated(Grid, {"shape": [1, 2.5], "names": {"a": None}}, "x.json", remedy="mend it")
