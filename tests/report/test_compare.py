"""Paired differences, and no win that is none."""

import numpy as np
import pytest

from medfuse.report.compare import (
    MEAN,
    Candidate,
    compare,
    differences_of,
    enough_cases,
    holm,
    signed_rank,
    table,
)
from medfuse.report.comparison import page


def candidate(name: str, values, trainings: int = 1) -> Candidate:
    cases = {f"case_{i}": [float(v)] * trainings for i, v in enumerate(values)}
    return Candidate(name, {"organ": cases}, trainings, parameters=1000, seconds=60.0)


RANDOM = np.random.default_rng(3)
BASE = RANDOM.uniform(0.7, 0.9, 30)


def test_a_model_does_not_differ_from_itself():
    for d in compare([candidate("a", BASE), candidate("b", BASE)]).differences:
        assert (d.difference, d.low, d.high, d.p, d.verdict) == (0, 0, 0, 1, "no significant difference")


def test_a_steady_gain_is_a_win_and_the_other_way_round_a_loss():
    better = BASE + RANDOM.uniform(0.01, 0.03, 30)
    assert compare([candidate("a", BASE), candidate("b", better)]).of("b", MEAN).verdict == "better"
    assert compare([candidate("b", better), candidate("a", BASE)]).of("a", MEAN).verdict == "worse"


def test_a_higher_mean_alone_is_no_win():
    one_lucky_case = BASE + RANDOM.choice([-0.001, 0.001], 30)
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


@pytest.mark.parametrize("pairs", [1, 3, 5])
@pytest.mark.parametrize("trainings", [1, 4])
def test_too_few_pairs_prove_nothing_and_that_is_said(pairs, trainings):
    base = candidate("a", BASE[:pairs], trainings)
    made = compare([base, candidate("b", BASE[:pairs] - 0.4, trainings)])
    assert {d.verdict for d in made.differences} == {"too few cases to tell"}
    for text in (table(made), page(made)):
        assert "no difference could be significant" in text
        assert f"{pairs} cases that differ" in text
        assert "no significant difference" not in table(made)


def test_enough_pairs_say_nothing_of_too_few():
    assert "too few" not in table(compare([candidate("a", BASE), candidate("b", BASE - 0.4)]))


def test_pairs_that_do_not_differ_do_not_count():
    other = BASE.copy()
    other[:5] += 0.1
    d = compare([candidate("a", BASE), candidate("b", other)]).of("b", "organ")
    assert (d.pairs, d.differing, d.verdict) == (30, 5, "too few cases to tell")


@pytest.mark.parametrize("differing", range(1, 12))
@pytest.mark.parametrize("same", [0, 20])
def test_no_p_is_below_that_of_all_orders_of_signs(differing, same):
    ties = np.r_[np.full(differing, 0.1), np.zeros(same)]
    assert signed_rank(ties) == pytest.approx(2 ** (1 - differing))


@pytest.mark.parametrize("tests", [1, 2, 3, 8])
def test_as_many_cases_as_are_asked_for_are_enough(tests):
    n = enough_cases(tests)
    best = [signed_rank(np.arange(1.0, n + 1))] * tests
    fewer = [signed_rank(np.arange(1.0, n))] * tests
    assert max(holm(best)) < 0.05 <= max(holm(fewer))


def two_labels(name: str, often, rare) -> Candidate:
    """`often` is in every case, `rare` in the last ones alone."""
    first = len(often) - len(rare)
    cases = {"often": {f"case_{i}": [v] for i, v in enumerate(often)}}
    cases["rare"] = {f"case_{first + i}": [v] for i, v in enumerate(rare)}
    return Candidate(name, cases, 1)


def test_the_mean_foreground_is_the_mean_of_the_labels_means():
    model = two_labels("a", [1.0, 0.8, 0.6, 0.4], [0.1])
    assert model.mean(MEAN) == pytest.approx((0.7 + 0.1) / 2)
    assert [model.n(label) for label in (MEAN, "often", "rare")] == [4, 4, 1]


def test_the_difference_of_mean_foregrounds_is_the_mean_of_the_labels_differences():
    a, b = two_labels("a", BASE[:8], BASE[8:10]), two_labels("b", BASE[10:18], BASE[18:20])
    made = compare([a, b])
    of = {label: made.of("b", label).difference for label in made.labels}
    assert of[MEAN] == pytest.approx((of["often"] + of["rare"]) / 2)
    assert of[MEAN] == pytest.approx(b.mean(MEAN) - a.mean(MEAN))
    assert differences_of(a, b, MEAN).mean() == pytest.approx(of[MEAN])


def test_a_label_that_no_case_holds_takes_nothing_from_the_others():
    a, b = two_labels("a", BASE, []), two_labels("b", BASE - 0.1, [])
    made = compare([a, b])
    assert {d.label for d in made.differences} == {MEAN, "often"}
    assert made.of("b", MEAN).verdict == "worse"
    assert a.n("rare") == 0


def test_trainings_are_averaged_before_they_are_compared():
    seeds = Candidate("b", {"organ": {f"case_{i}": [v - 0.1, v + 0.1] for i, v in enumerate(BASE)}}, 2)
    d = compare([candidate("a", BASE), seeds]).of("b", MEAN)
    assert d.difference == pytest.approx(0, abs=1e-12)


def test_cases_that_one_of_them_lacks_are_left_out():
    assert compare([candidate("a", BASE), candidate("b", BASE[:10])]).of("b", MEAN).pairs == 10


def test_models_without_a_common_case_cannot_be_compared():
    other = Candidate("b", {"organ": {"elsewhere": [0.5]}}, 1)
    with pytest.raises(ValueError, match="a and b have no judged case"):
        compare([candidate("a", BASE), other])


def test_the_page_and_the_table_say_every_verdict():
    made = compare([candidate("a<b", BASE), candidate("c", BASE - 0.05)])
    assert "worse" in table(made)
    html = page(made)
    assert "worse" in html
    assert "a&lt;b" in html
    assert html.count('title="case') >= len(BASE)
