"""Paired differences, and no win that is none."""

import re

import numpy as np
import pytest

from medfuse.report.candidates import MEAN, Candidate
from medfuse.report.compare import by_case, compare, enough_cases, holm
from medfuse.report.comparison import page
from medfuse.report.comparison_text import table
from medfuse.report.paired import signed_rank


def candidate(name: str, values, trainings: int = 1) -> Candidate:
    cases = {f"case_{i}": [float(v)] * trainings for i, v in enumerate(values)}
    return Candidate(name, {"organ": cases}, trainings, parameters=1000, seconds=60.0)


RANDOM = np.random.default_rng(3)
BASE = RANDOM.uniform(0.7, 0.9, 30)


def test_a_model_does_not_differ_from_itself():
    for d in compare([candidate("a", BASE), candidate("b", BASE)]).differences:
        assert (d.difference, d.low, d.high, d.p, d.verdict) == (0, 0, 0, 1, "equivalent")


def test_a_steady_gain_is_a_win_and_the_other_way_round_a_loss():
    better = BASE + RANDOM.uniform(0.01, 0.03, 30)
    assert compare([candidate("a", BASE), candidate("b", better)]).of("b", MEAN).verdict == "better"
    assert compare([candidate("b", better), candidate("a", BASE)]).of("a", MEAN).verdict == "worse"


def test_a_model_that_lacks_a_label_is_told_by_it():
    more = Candidate(
        "b", {"organ": {"case_0": [0.5]}, "lesion": {"case_0": [0.5]}}, 1, parameters=1, seconds=1.0
    )
    with pytest.raises(ValueError, match="a has no label lesion, as b has"):
        compare([more, candidate("a", BASE)])


def test_a_higher_mean_alone_is_no_win():
    one_lucky_case = BASE + RANDOM.choice([-0.001, 0.001], 30)
    one_lucky_case[0] += 0.09
    d = compare([candidate("a", BASE), candidate("b", one_lucky_case)]).of("b", MEAN)
    assert d.difference > 0
    assert d.verdict in ("undecided", "equivalent")


@pytest.mark.slow
def test_chance_alone_wins_no_more_often_than_the_level_allows():
    wins = 0
    for _ in range(200):
        noise = [candidate(str(i), BASE + RANDOM.normal(0, 0.02, 30)) for i in range(4)]
        wins += bool({d.verdict for d in compare(noise).differences} & {"better", "worse"})
    assert wins <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5


def test_holm_is_his_textbook_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("pairs", [1, 3, 5])
@pytest.mark.parametrize("trainings", [1, 4])
def test_too_few_pairs_prove_nothing_and_that_is_said(pairs, trainings):
    base = candidate("a", BASE[:pairs], trainings)
    made = compare([base, candidate("b", BASE[:pairs] - 0.4, trainings)])
    assert {d.verdict for d in made.differences} == {"undecided"}
    assert all(d.is_hopeless for d in made.differences)
    for text in (table(made), page(made)):
        assert "no difference could be significant" in text
        assert ("1 case that differs" if pairs == 1 else f"{pairs} cases that differ") in text
        assert "equivalent within" not in table(made)


def test_enough_pairs_say_nothing_of_too_few():
    assert "too few" not in table(compare([candidate("a", BASE), candidate("b", BASE - 0.4)]))


def test_pairs_that_do_not_differ_do_not_count():
    other = BASE.copy()
    other[:5] += 0.1
    d = compare([candidate("a", BASE), candidate("b", other)]).of("b", "organ")
    assert (d.pairs, d.differing, d.verdict) == (30, 5, "undecided")


@pytest.mark.parametrize("differing", range(1, 12))
@pytest.mark.parametrize("same", [0, 20])
def test_no_p_is_below_that_of_all_orders_of_signs(differing, same):
    ties = np.r_[np.full(differing, 0.1), np.zeros(same)]
    assert signed_rank(ties[None])[0] == pytest.approx(2 ** (1 - differing))


@pytest.mark.parametrize("tests", [1, 2, 3, 8])
def test_as_many_cases_as_are_asked_for_are_enough(tests):
    n = enough_cases(tests)
    best, fewer = ([float(signed_rank(np.arange(1.0, most)[None])[0])] * tests for most in (n + 1, n))
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
    assert np.mean([*by_case(a, b, MEAN).values()]) == pytest.approx(of[MEAN])


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


def of_seeds(name: str, luck, **facts) -> Candidate:
    """One value for each seed, which shifts every case."""
    cases = {f"case_{i}": [float(v + shift) for shift in luck] for i, v in enumerate(BASE)}
    return Candidate(name, {"organ": cases}, len(luck), **facts)


def test_a_model_whose_seeds_were_luckier_is_not_better():
    a, b = of_seeds("a", [0.0, 0.02, -0.02]), of_seeds("b", [0.03, 0.0, -0.01])
    averaged = signed_rank(np.array([[*by_case(a, b, MEAN).values()]]))[0]
    assert averaged < 0.001
    assert compare([a, b]).of("b", MEAN).verdict == "undecided"


def test_a_gain_beyond_what_seeds_do_is_better():
    a, b = of_seeds("a", [0.0, 0.01, -0.01]), of_seeds("b", [0.1, 0.11, 0.09])
    assert compare([a, b]).of("b", MEAN).verdict == "better"


def test_a_difference_that_does_not_matter_is_equivalent_and_the_margin_decides():
    a, b = candidate("a", BASE), candidate("b", BASE + RANDOM.normal(0.003, 0.001, 30))
    made = compare([a, b])
    assert made.of("b", MEAN).verdict == "equivalent"
    assert "equivalent within ±0.005" in table(made)
    assert compare([a, b], margin=0.001).of("b", MEAN).verdict == "better"


def test_what_is_undecided_says_how_many_patients_would_decide():
    noise = RANDOM.normal(0, 0.05, 30)
    made, larger = (
        compare([candidate("a", BASE), candidate("b", BASE + noise - noise.mean() + shift)])
        for shift in (0.0, 0.01)
    )
    assert made.of("b", MEAN).needed.patients > 300
    assert made.of("b", MEAN).needed.patients > 3 * larger.of("b", MEAN).needed.patients
    for text in (table(made), page(made)):
        assert "undecided (about" in text
        assert "patients would be needed" in text


def test_few_patients_claim_no_equivalence():
    made = compare([candidate("a", BASE[:8]), candidate("b", BASE[:8])])
    assert made.of("b", MEAN).verdict == "undecided"
    assert "8 patients, n too small for a claim" in table(made)


def test_cases_of_one_patient_are_one_unit():
    patients = {f"case_{i}": f"p{i // 6}" for i in range(30)}
    a, b = (
        Candidate(name, {"organ": {f"case_{i}": [v] for i, v in enumerate(values)}}, 1, patients=patients)
        for name, values in (("a", BASE), ("b", BASE + 0.1))
    )
    d = compare([a, b]).of("b", MEAN)
    assert (d.pairs, d.patients, d.verdict, d.is_hopeless) == (30, 5, "undecided", True)
    assert a.interval(MEAN).patients == 5


def test_every_mean_has_its_interval_in_the_table_and_in_the_file():
    a = of_seeds("a", [0.0, 0.01, -0.01])
    made = compare([a, candidate("b", BASE)])
    interval = a.interval(MEAN)
    assert interval.seeds == 3
    cells = f"{a.mean(MEAN):.4f} +{re.escape(interval.limits_text().strip())}"
    assert re.search(cells, table(made))
    assert made.to_json()["candidates"][0]["intervals"][MEAN]["low"] == interval.low


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"seconds": 60.0}, ""),
        ({"seconds": 63.0}, ""),
        ({"seconds": 120.0}, "minutes of training: a 1.0, b 2.0"),
        ({"seconds": 67.0}, "minutes of training: a 1.0, b 1.1"),
        ({"seconds": 62.9}, ""),
        ({"cases": 30}, "cases that it learned from: a 20, b 30"),
    ],
)
def test_unequal_budgets_are_told(facts, told):
    a = of_seeds("a", [0.0], seconds=60.0, cases=20)
    made = compare([a, of_seeds("b", [0.1], **{"seconds": 60.0, "cases": 20, **facts})])
    assert (told in table(made) and told in page(made)) if told else "unequal" not in table(made)


def test_seeds_that_one_model_lacks_are_told():
    made = compare([of_seeds("a", [0.0, 0.01]), of_seeds("b", [0.05])])
    assert "trained once: b" in table(made)
    assert "--seeds 3 tells" in table(compare([candidate("a", BASE), candidate("b", BASE)]))


def test_more_than_two_models_are_ranked():
    made = compare([candidate(name, BASE + shift) for name, shift in (("a", 0), ("b", 0.1), ("c", 0.05))])
    assert [(rank.candidate, rank.rank) for rank in made.ranks] == [("b", 1), ("c", 2), ("a", 3)]
    assert "rank in 95 %" in table(made)
    assert "rank in 95 %" in page(made)


def test_a_value_that_a_seed_lacks_leaves_the_others_in_their_places():
    dice, slots = {"organ": {"x": [0.1], "y": [0.2, 0.3]}}, {"organ": {"x": [1], "y": [0, 1]}}
    values = Candidate("a", dice, 2, slots=slots).values(["organ"], ["x", "y"])[:, :, 0]
    assert np.array_equal(values, [[np.nan, 0.1], [0.2, 0.3]], equal_nan=True)


def test_budgets_that_differ_are_written_so_that_they_do():
    a, b = of_seeds("a", [0.0], seconds=4.0, cases=20), of_seeds("b", [0.1], seconds=5.0, cases=20)
    assert "minutes of training: a 0.07, b 0.08" in table(compare([a, b]))


def test_one_patient_is_one():
    text = table(compare([candidate("a", BASE[:1]), candidate("b", BASE[:1])]))
    assert "1 patient, n too small" in text
    assert "1 patients" not in text
    assert "1 cases" not in text
