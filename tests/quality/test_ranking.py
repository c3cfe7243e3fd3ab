"""The next case to annotate is one that the model doubts and that is like none that is annotated."""

import numpy as np
import pytest

from medfuse.quality.ranking import doubt, in_turn

NONE = np.zeros((0, 2))


def turn(doubts, vectors, *, costs=None, known=NONE, number=None):
    vectors = np.asarray(vectors, float)
    known = np.asarray(known, float).reshape(len(known), vectors.shape[1])
    costs = costs or [1.0] * len(doubts)
    return in_turn(doubts, vectors, costs, known=known, number=len(doubts) if number is None else number)


def test_without_maps_the_most_doubtful_come_first():
    assert turn([0.1, 0.5, 0.3], np.zeros((3, 0)))[0] == [1, 2, 0]


def test_a_twin_of_what_is_chosen_comes_last():
    order, novelty = turn([0.9, 0.8, 0.1], [[0, 0], [0, 0], [5, 5]])
    assert order == [0, 2, 1]
    assert novelty[1] == 1.0  # as then nothing is left that it could be less new than


def test_a_twin_of_what_is_annotated_comes_last():
    order, _ = turn([0.9, 0.5, 0.4], [[0, 0], [3, 0], [0, 9]], known=[[0, 0]])
    assert order[-1] == 0


def test_what_costs_more_has_to_be_worth_more():
    assert turn([0.5, 0.4], np.zeros((2, 0)), costs=[3.0, 1.0])[0] == [1, 0]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_channels_count_alike_whatever_their_scale(scale):
    vectors = np.random.default_rng(1).normal(size=(12, 4))
    doubts = np.random.default_rng(2).random(12).tolist()
    plain = turn(doubts, vectors)[0]
    assert turn(doubts, vectors * [scale, 1, 1, 1])[0] == plain


def test_the_order_of_cases_does_not_matter():
    random = np.random.default_rng(3)
    vectors, doubts = random.normal(size=(20, 5)), random.random(20)
    shuffled = random.permutation(20)
    order = turn(doubts.tolist(), vectors, number=8)[0]
    again = turn(doubts[shuffled].tolist(), vectors[shuffled], number=8)[0]
    assert [int(shuffled[i]) for i in again] == order


@pytest.mark.parametrize("number", [0, 1, 3, 7])
def test_as_many_are_chosen_as_are_wanted_and_there(number):
    order, novelty = turn([0.3, 0.2, 0.1], [[1, 2], [1, 2], [1, 2]], number=number)
    assert len({*order}) == len(order) == min(number, 3)
    assert all(0 <= value <= 1 for value in novelty)


def test_doubt_goes_by_the_most_telling_score_there_is():
    both = {"a": {"folds": 0.9, "entropy": 0.2}, "b": {"folds": 0.7, "entropy": 0.6}}
    assert doubt(both) == (pytest.approx(0.2), "folds")
    assert doubt({"a": {"folds": None, "entropy": 0.2}}) == (pytest.approx(0.2), "entropy")
    assert doubt({"a": {"folds": None, "entropy": None}}) == (1.0, "nothing found")
    assert doubt({"a": {"expected": 0.6, "folds": 0.9, "entropy": 0.2}}) == (pytest.approx(0.4), "expected")
    assert doubt({}) == (1.0, "nothing found")
