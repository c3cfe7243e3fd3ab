"""Ranks say how firmly they stand."""

import numpy as np
import pytest

from medfuse.report.ranks import ranks

RANDOM = np.random.default_rng(1)
BASE = RANDOM.beta(18, 2, (1, 40, 1))


def noisy(shift: float, seeds: int = 1, of_seeds: float = 0.0):
    random = np.random.default_rng(int(1000 * shift) + 7)
    luck = random.normal(0, of_seeds, (1, 1, seeds))
    return BASE + shift + luck + random.normal(0, 0.01, (1, 40, seeds))


def test_models_far_apart_keep_their_ranks():
    made = ranks(["low", "high", "middle"], [noisy(0), noisy(0.2), noisy(0.1)])
    assert [one.candidate for one in made] == ["high", "middle", "low"]
    assert [(one.rank, one.low, one.high, one.first) for one in made] == [
        (1, 1, 1, 1.0), (2, 2, 2, 0.0), (3, 3, 3, 0.0),
    ]  # fmt: skip


def test_equal_models_share_the_first_rank():
    made = ranks(["a", "b"], [BASE, BASE])
    assert [(one.rank, one.first) for one in made] == [(1, 0.5), (1, 0.5)]


def test_shares_of_the_first_rank_add_up():
    made = ranks(["a", "b", "c"], [noisy(0), noisy(0.001), noisy(0.002)])
    assert sum(one.first for one in made) == pytest.approx(1, abs=0.001)
    assert made[0].high > 1


def test_seeds_that_differ_make_ranks_less_firm():
    once = ranks(["a", "b"], [noisy(0, 3), noisy(0.005, 3)])
    lucky = ranks(["a", "b"], [noisy(0, 3, 0.02), noisy(0.005, 3, 0.02)])
    assert min(one.first for one in lucky) > min(one.first for one in once)
