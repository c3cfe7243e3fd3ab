"""Numbers and tables as text."""

import shlex
from pathlib import Path

import pytest
import yaml

from medfuse.core.text import aligned, by, number, typed, yaml_text


def test_sizes_are_joined():
    assert by((64, 64, 32)) == "64×64×32"
    assert by(()) == ""


def test_an_undefined_number_is_a_dash():
    assert number(None) == "–"
    assert number(0.12345) == "0.1235"
    assert number(2.0, 1, sign=True) == "+2.0"


def test_columns_start_below_each_other_and_lines_end_without_blanks():
    assert aligned([("a", "bb", ""), ("ccc", "d", "e")]) == "a    bb\nccc  d   e"


def test_plain_data_reads_back_in_its_order():
    value = {"b": [1, 2], "a": {"ä": None}}
    assert list(yaml.safe_load(yaml_text(value)).items()) == list(value.items())


@pytest.mark.parametrize("name", ["plain", "two words", "it's", 'a "b"', "ü <i>&x", "$HOME `ls`", "-o"])
def test_a_path_is_one_word_of_a_shell(name):
    assert shlex.split(f"infer {typed(Path(name))} -i x") == ["infer", name, "-i", "x"]
