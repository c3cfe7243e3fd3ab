"""Paired differences, and no win that is none."""

import numpy as np
import pytest

from medfuse.report.compare import MEAN, Candidate, compare, holm, interval, page, signed_rank, table


def candidate(name: str, values, trainings: int = 1) -> Candidate:
    cases = {f"case_{i}": [float(v)] * trainings for i, v in enumerate(values)}
    return Candidate(name, {MEAN: cases}, trainings, parameters=1000, seconds=60.0)


RANDOM = np.random.default_rng(3)
BASE = RANDOM.uniform(0.7, 0.9, 30)


def test_a_model_does_not_differ_from_itself():
    (d,) = compare([candidate("a", BASE), candidate("b", BASE)]).differences
    assert (d.difference, d.low, d.high, d.p, d.verdict) == (0, 0, 0, 1, "no significant difference")


def test_a_steady_gain_is_a_win_and_the_other_way_round_a_loss():
    better = BASE + RANDOM.uniform(0.01, 0.03, 30)
    assert compare([candidate("a", BASE), candidate("b", better)]).of("b", MEAN).verdict == "better"
    assert compare([candidate("b", better), candidate("a", BASE)]).of("a", MEAN).verdict == "worse"


def test_a_higher_mean_alone_is_no_win():
    one_lucky_case = BASE.copy()
    one_lucky_case[0] += 0.09
    d = compare([candidate("a", BASE), candidate("b", one_lucky_case)]).of("b", MEAN)
    assert d.difference > 0
    assert d.verdict == "no significant difference"


def test_chance_alone_wins_no_more_often_than_the_level_allows():
    wins = 0
    for _ in range(200):
        noise = [candidate(str(i), BASE + RANDOM.normal(0, 0.02, 30)) for i in range(4)]
        verdicts = {d.verdict for d in compare(noise).differences}
        wins += verdicts != {"no significant difference"}
    assert wins <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5


def test_holm_is_his_textbook_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_interval_of_a_normal_sample_is_about_two_standard_errors():
    values = RANDOM.normal(0, 1, 400)
    low, high = interval(values)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.05)


def test_too_few_pairs_prove_nothing():
    assert signed_rank(np.full(5, 0.1)) == 1


def test_trainings_are_averaged_before_they_are_compared():
    seeds = Candidate("b", {MEAN: {f"case_{i}": [v - 0.1, v + 0.1] for i, v in enumerate(BASE)}}, 2)
    d = compare([candidate("a", BASE), seeds]).of("b", MEAN)
    assert d.difference == pytest.approx(0, abs=1e-12)


def test_cases_that_one_of_them_lacks_are_left_out():
    assert compare([candidate("a", BASE), candidate("b", BASE[:10])]).of("b", MEAN).pairs == 10


def test_models_without_a_common_case_cannot_be_compared():
    other = Candidate("b", {MEAN: {"elsewhere": [0.5]}}, 1)
    with pytest.raises(ValueError, match="a and b have no case"):
        compare([candidate("a", BASE), other])


def test_the_page_and_the_table_say_every_verdict():
    made = compare([candidate("a<b", BASE), candidate("c", BASE - 0.05)])
    assert "worse" in table(made)
    html = page(made)
    assert "worse" in html
    assert "a&lt;b" in html
    assert "<svg" in html
