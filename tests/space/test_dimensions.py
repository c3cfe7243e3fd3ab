"""What a search space may say of a key."""

import json

import numpy as np
import pytest

from medfuse import plugins
from medfuse.space.dimensions import Choices, Range, Subset, as_written, read_dimension, words


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["fpn", {"use": "sum"}, None, 3], Choices(("fpn", {"use": "sum"}, None, 3))),
        ({"log": [1e-4, 1e-2]}, Range(1e-4, 1e-2, log=True)),
        ({"range": [0, 1]}, Range(0, 1)),
        ({"int": [2, 6]}, Range(2, 6, whole=True)),
        ({"subset_of": ["a", "b"], "at_least": 2}, Subset(("a", "b"), 2)),
        ({"subset_of": ["a", "b"]}, Subset(("a", "b"), 1)),
    ],
)
def test_each_form_is_read(written, read):
    assert read_dimension(written) == read


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (3, "say what may be tried"),
        ({}, "in one way"),
        ({"log": [1, 2], "range": [1, 2]}, "in one way"),
        ([], "has no value to try"),
        (["fpn", "fpn"], "fpn is there twice"),
        ([1, 1.0], "1 is there twice"),
        ([0.1, float("nan")], "nan and inf are no values"),
        ([{"use": "tversky", "false_positives": float("inf")}], "nan and inf are no values"),
        ({"log": [0, 1]}, "0 has no logarithm"),
        ({"range": [2, 1]}, "2 is not below 1"),
        ({"range": [1]}, "the least and the most"),
        ({"range": [True, 2]}, "the least and the most"),
        ({"range": [0, float("inf")]}, "the least and the most"),
        ({"int": [0.5, 2]}, "whole numbers"),
        ({"subset_of": []}, "takes a list"),
        ({"subset_of": ["a"], "at_least": 2}, "from 0 to 1"),
        ({"subset_of": ["a"], "at_most": 2}, "at_most is no key"),
    ],
)
def test_what_is_none_is_refused_in_words(written, said):
    with pytest.raises(ValueError, match=said):
        read_dimension(written)


@pytest.mark.parametrize("least", range(4))
def test_the_examples_of_a_subset_hold_every_member_and_are_large_enough(least):
    subset = Subset(("a", "b", "c"), least)
    made = [subset.example(place) for place in subset.examples()]
    assert {one for some in made for one in some} == {"a", "b", "c"}
    assert all(len(some) >= max(1, least) and some == sorted(some) for some in made)


def test_values_that_differ_have_different_words():
    values = [1, "1", True, None, "none", [1], {"use": "a"}, 0.5, [], {}]
    assert len({words(value) for value in values if value != "1"}) == len(values) - 1


@pytest.mark.parametrize("value", [3, "none", None, 0.5, [1, [2]], {"use": "fpn", "channels": 4}, True])
def test_a_space_that_is_written_stays_as_it_is(value):
    space = {"a": {"log": [1e-4, 1]}, "b": ["x", {"use": "y"}], "c": {"subset_of": ["a", "b"], "at_least": 2}}
    assert as_written(space) == space
    assert as_written(value) == value


def test_a_space_of_python_is_said_in_plain_values():
    losses = plugins.losses
    space = {
        "a": (losses.tversky(), losses.sum(terms=[losses.dice_ce(), "boundary"])),
        "b": [None, np.int64(3)],
    }
    plain = {"use": "sum", "terms": [{"use": "dice_ce"}, {"use": "boundary"}]}
    made = as_written(space)
    assert made["a"][0] == "tversky"
    assert [part["use"] for part in made["a"][1]["terms"]] == [part["use"] for part in plain["terms"]]
    assert made["b"] == ["none", 3]
    assert json.loads(json.dumps(made)) == made
