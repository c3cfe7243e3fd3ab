"""Intervals hold what they claim, on simulated data whose truth is known."""

import numpy as np
import pytest

from medfuse.report.intervals import POSITIVE, Interval, judged, mean_interval, median_interval, said_once
from medfuse.report.resampling import Spread, for_any_distribution, parts

SAMPLES = 4000
OFF = 0.02 + 2 * (0.05 * 0.95 / SAMPLES) ** 0.5
"""±2 %, and what chance adds in so many samples."""
DICE = (18, 2)


def covered(table, truth: float) -> float:
    low, high = Spread(parts(table)).limits()
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.parametrize("patients", [5, 20, 50, 200])
@pytest.mark.parametrize("shape", [DICE, (4.5, 0.5)], ids=["skewed", "very skewed"])
def test_the_mean_of_skewed_dice_is_covered_as_claimed(patients, shape):
    values = np.random.default_rng(1).beta(*shape, (SAMPLES, patients))
    assert covered(values[:, :, None], 0.9) == pytest.approx(0.95, abs=OFF)


@pytest.mark.parametrize("patients", [20, 50])
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("of_seeds", [0.0, 0.01, 0.03])
def test_seeds_are_a_level_of_their_own(patients, seeds, of_seeds):
    random = np.random.default_rng(2)
    values = random.beta(*DICE, (SAMPLES // 2, patients, 1)) + random.normal(0, 0.02, (1, patients, seeds))
    values = values + random.normal(0, of_seeds, (SAMPLES // 2, 1, seeds))
    assert 0.925 <= covered(values, 0.9) <= 0.985


def test_averaging_seeds_away_would_not_be_enough():
    random = np.random.default_rng(3)
    values = random.normal(0.9, 0.02, (1000, 50, 1)) + random.normal(0, 0.02, (1000, 1, 3))
    assert covered(values.mean(axis=2, keepdims=True), 0.9) < 0.5 < 0.92 < covered(values, 0.9)


@pytest.mark.parametrize("patients", [5, 20])
@pytest.mark.parametrize("failing", [0.02, 0.1])
def test_bounds_for_any_distribution_hold_failures_that_nobody_saw(patients, failing):
    random = np.random.default_rng(4)
    values = random.beta(*DICE, (1000, patients)) * (random.random((1000, patients)) > failing)
    low, high = for_any_distribution(values, (0, 1))
    assert ((low <= 0.9 * (1 - failing)) & (0.9 * (1 - failing) <= high)).mean() >= 0.95


def test_bounds_of_zeros_and_ones_are_those_of_clopper_and_pearson():
    from scipy.stats import binomtest

    low, high = for_any_distribution(np.array([[1.0] * 7 + [0.0] * 3]), (0, 1))
    exact = binomtest(7, 10).proportion_ci(0.95, "exact")
    assert (low[0], high[0]) == pytest.approx((exact.low, exact.high), abs=0.01)


def clusters(random, patients: int):
    """Two cases of every other patient, alike within a patient, whose mean is 0.8."""
    names = [p for p in range(patients) for _ in range(1 + p % 2)]
    return random.normal(0.8, 0.05, patients)[names] + random.normal(0, 0.01, len(names)), names


@pytest.mark.parametrize("of", [mean_interval, median_interval])
def test_cases_of_one_patient_are_no_cases_of_several(of):
    random, held, apart = np.random.default_rng(5), 0, 0
    for _ in range(300):
        values, names = clusters(random, 20)
        together, alone = of(values, names), of(values)
        held += together.low <= 0.8 <= together.high
        apart += alone.low <= 0.8 <= alone.high
    assert apart < held
    assert held / 300 == pytest.approx(0.95, abs=0.04)


@pytest.mark.parametrize("patients", [6, 8, 20, 50])
def test_the_median_is_covered_as_claimed(patients):
    random = np.random.default_rng(6)
    truth = float(np.median(random.beta(*DICE, 10**6)))
    found = [median_interval(random.beta(*DICE, patients)) for _ in range(1500)]
    assert np.mean([one.low <= truth <= one.high for one in found]) == pytest.approx(0.95, abs=0.025)


def test_a_median_of_five_claims_no_more_than_the_smallest_and_the_largest_give():
    of = median_interval([0.5, 0.6, 0.7, 0.8, 0.9])
    assert (of.low, of.high, of.level) == (0.5, 0.9, pytest.approx(1 - 2 * 0.5**5))


def test_a_mean_is_that_of_the_labels_means_whatever_cases_have():
    rows = np.array([[0.9, np.nan], [0.7, 0.1], [0.8, np.nan], [0.6, np.nan]])
    of = mean_interval(rows[:, None, :])
    assert of.value == pytest.approx((0.75 + 0.1) / 2)
    assert of.low < of.value < of.high
    assert judged(rows[:, None, :]).table().mean() == pytest.approx(of.value)


def test_patients_weigh_by_their_cases():
    of = mean_interval([0.9, 0.9, 0.9, 0.1, 0.5], ["a", "a", "a", "b", "c"])
    assert (of.value, of.patients, of.cases) == (pytest.approx(0.66), 3, 5)


def test_seeds_that_agree_change_nothing():
    values = np.random.default_rng(7).beta(*DICE, 30)
    one, three = mean_interval(values), mean_interval(np.repeat(values[:, None], 3, axis=1))
    assert (three.low, three.high) == (pytest.approx(one.low), pytest.approx(one.high))
    assert three.seeds == 3


@pytest.mark.parametrize("values", [[1.0] * 5, [0.0] * 5])
def test_alike_is_not_certain(values):
    of = mean_interval(values)
    assert of.high - of.low > 0.4


@pytest.mark.parametrize("patients", [2, 3, 4, 5, 7])
def test_a_share_stays_a_share(patients):
    of = mean_interval(np.random.default_rng(8).beta(*DICE, patients))
    assert 0 <= of.any_low <= of.low <= of.value <= of.high <= of.any_high <= 1


def test_of_one_patient_nothing_follows():
    of = mean_interval([0.5, 0.9], ["a", "a"])
    assert (of.value, of.low, of.high) == (0.7, None, None)
    assert of.text() == "0.7000 (1 patient, 2 cases)"


def test_nothing_has_no_mean():
    assert mean_interval([np.nan, np.nan]) is median_interval([]) is None


def test_small_n_is_said():
    values = np.random.default_rng(9).beta(*DICE, 240)
    assert "too small for a claim" in mean_interval(values[:5]).caveat
    assert "11% of all" in mean_interval(values[:25]).caveat
    assert "5% of all" in mean_interval(values[:60]).caveat
    assert mean_interval(values).caveat == ""


def test_the_text_is_how_it_is_quoted():
    of = Interval(0.912, 0.95, 40, 40, 3, 0.897, 0.925)
    assert of.text(3) == "0.912 [0.897, 0.925] (95 %, 40 patients, 3 seeds)"
    assert Interval.of_json(of.to_json()) == of


def test_the_same_values_have_the_same_interval():
    values = np.random.default_rng(10).beta(*DICE, 12)
    assert mean_interval(values) == mean_interval(values.copy())


@pytest.mark.parametrize("bound", [0.05, 0.3])
@pytest.mark.parametrize("patients", [8, 40, 250])
def test_p_is_the_level_at_which_the_interval_ends_there(bound, patients):
    random = np.random.default_rng(11)
    spread = Spread(parts(random.gamma(2, 1, (1, patients, 1))))
    low, high = spread.limits(1 - 2 * bound)
    assert spread.p_at_most(float(low[0]))[0] == pytest.approx(bound, abs=0.005)
    assert spread.p_at_least(float(high[0]))[0] == pytest.approx(bound, abs=0.005)


def test_a_distance_is_not_below_0_and_has_no_upper_bound():
    of = mean_interval([0.5, 40.0], bounds=POSITIVE)
    assert of.low == 0 < of.value < 100 < of.high
    assert of.any_low is of.any_high is None


@pytest.mark.parametrize("bounds", [None, POSITIVE])
@pytest.mark.parametrize("other", [0.001, 30.0])
@pytest.mark.parametrize("patients", [5, 6, 10, 40, 199, 200])
def test_where_all_patients_but_one_are_alike_limits_are_numbers_still(patients, other, bounds):
    """Many drawings are then of one value alone, whose standard error is 0."""
    of = mean_interval([2.0] * (patients - 1) + [2.0 + other], bounds=bounds)
    assert -60 < of.low <= of.value <= of.high < 60
    assert of.method.startswith("Student's t") or patients > 10


def test_what_few_patients_leave_open_is_told_once_and_of_what_it_is():
    values = np.random.default_rng(12).beta(*DICE, 30)
    found = {"Dice liver": mean_interval(values), "Dice tumour": mean_interval(values[:6])}
    method, few = said_once(found)
    assert method.startswith("intervals: bootstrap-t over patients")
    assert "6 patients, n too small for a claim" in few
    assert "Dice tumour is within [" in few


def test_labels_that_not_every_case_has_are_taken_as_they_are_with_several_seeds():
    values = np.random.default_rng(13).beta(*DICE, (12, 3, 2))
    values[4:, :, 1] = np.nan
    values[0, 1, 0] = np.nan  # one training does not define it
    of = mean_interval(values)
    by_case = [np.nanmean(values[:, :, 0], axis=1).mean(), np.nanmean(values[:4, :, 1], axis=1).mean()]
    assert of.value == pytest.approx(np.mean(by_case))
    assert (of.patients, of.seeds) == (12, 3)
    assert of.low < of.value < of.high


def test_patients_that_weigh_much_are_few_patients():
    table = np.random.default_rng(14).beta(*DICE, (2000, 8, 1))
    alike, uneven = (parts(table, weights=np.array(w, float)).freedom for w in ([3] * 8, [9] * 2 + [1] * 6))
    assert np.allclose(alike, parts(table).freedom)
    assert (uneven < alike / 3).all()
