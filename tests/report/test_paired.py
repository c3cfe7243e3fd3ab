"""Verdicts are wrong as rarely as they claim, on simulated models whose true difference is known."""

import numpy as np
import pytest

from medfuse.report.paired import MARGIN, judge, needed, signed_rank

SAMPLES = 2000
MOST = 0.05 + 0.02 + 2 * (0.05 * 0.95 / SAMPLES) ** 0.5
"""5 % claimed, 2 % off at most, and what chance adds."""


def models(random, patients: int, seeds: int, of_seeds: float, difference: float = 0.0):
    """Two models' (samples, patients, seeds) of skewed Dice, the second better by `difference` in truth."""
    dice = random.beta(18, 2, (SAMPLES, patients, 1))

    def model():
        luck = random.normal(0, of_seeds, (SAMPLES, 1, seeds))
        return dice + luck + random.normal(0, 0.004, (SAMPLES, patients, seeds))

    skewed = 0.01 * (random.gamma(0.5, 1, (SAMPLES, patients, 1)) - 0.5)
    return model(), model() + skewed + difference


@pytest.mark.parametrize("patients", [20, 50, 200])
@pytest.mark.parametrize(("seeds", "of_seeds"), [(1, 0.0), (3, 0.0), (3, 0.01)])
def test_equal_models_win_no_more_often_than_claimed(patients, seeds, of_seeds):
    base, other = models(np.random.default_rng(1), patients, seeds, of_seeds)
    of = judge(other, base, MARGIN)
    assert (of.p < 0.05).mean() <= MOST
    assert ((of.low <= 0) & (of.high >= 0)).mean() >= 1 - MOST


@pytest.mark.parametrize("patients", [20, 200])
@pytest.mark.parametrize("difference", [-MARGIN, MARGIN])
def test_models_that_differ_by_the_margin_are_seldom_equivalent(patients, difference):
    base, other = models(np.random.default_rng(2), patients, 3, 0.0, difference)
    assert (judge(other, base, MARGIN).p_equivalent < 0.05).mean() <= MOST


def test_equal_models_are_found_equivalent_where_cases_are_enough():
    base, other = models(np.random.default_rng(3), 200, 3, 0.0)
    assert (judge(other, base, MARGIN).p_equivalent < 0.05).mean() > 0.9


def test_a_luckier_model_does_not_win_as_it_would_were_seeds_averaged():
    base, other = models(np.random.default_rng(4), 50, 3, 0.01)
    averaged = signed_rank(other.mean(axis=2) - base.mean(axis=2))
    assert (judge(other, base, MARGIN).p < 0.05).mean() <= MOST < 0.5 < (averaged < 0.05).mean()


def test_a_model_that_was_trained_once_is_taken_to_vary_as_the_other():
    base, other = models(np.random.default_rng(5), 50, 5, 0.01)
    assert (judge(other[:, :, :1], base, MARGIN).p < 0.05).mean() <= MOST


def test_as_many_patients_as_are_said_to_be_needed_find_the_margin_in_four_of_five_studies():
    random = np.random.default_rng(6)
    base, other = models(random, 20, 1, 0.0)
    few, margin = judge(other, base, MARGIN), 0.002
    more = needed(float(few.of_patients.mean()), 0.0, 20, 1, margin)
    assert (more.patients > 100, more.seeds) == (True, 1)
    base, other = models(random, more.patients, 1, 0.0, margin)
    assert (judge(other, base, margin).p < 0.05).mean() == pytest.approx(0.8, abs=0.1)


def test_where_seeds_are_what_is_uncertain_more_seeds_are_asked_for():
    of_patients, of_seeds = 1e-6, 1e-4
    more = needed(of_patients, of_seeds, 50, 3, MARGIN)
    assert more.seeds > 50
    assert needed(of_patients, 0.0, 50, 3, MARGIN).seeds == 3


def test_a_smaller_margin_needs_more_patients():
    assert needed(1e-4, 0, 20, 1, 0.005).patients > 3 * needed(1e-4, 0, 20, 1, 0.01).patients


def test_a_difference_of_all_patients_is_certain_and_none_is_equivalent():
    table = np.random.default_rng(7).beta(18, 2, (1, 30, 1))
    same, better = judge(table, table, MARGIN), judge(table + 0.1, table, MARGIN)
    assert (same.p[0], same.p_equivalent[0] < 0.05) == (1, True)
    assert (better.p[0] < 0.01, better.p_equivalent[0]) == (True, 1)
