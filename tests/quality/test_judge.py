"""What is said of a case that nobody judged, and which cases are to be looked at first."""

import csv
from typing import Any

import pytest
from quality.test_calibration import cases

from medfuse.quality.calibration import by_name
from medfuse.quality.judge import SHIFTED, Judge
from medfuse.quality.scores import BY_NAME, SCORES
from medfuse.quality.table import HEAD, as_csv, summary_line, to_look_at
from medfuse.quality.usual import UsualVolume

GOOD: dict[str, Any] = {
    "entropy": 0.2, "margin": 0.8, "volume": 0.1, "components": 1.0, "volume_ml": 5.0,
}  # fmt: skip
NEAR: dict[str, Any] = {"spacing": 0.2, "field_of_view": 0.9, "intensities": None}


def judge(n: int = 60, no_bound: str = "") -> Judge:
    return Judge({"liver": UsualVolume(20, 20, 1.0, 0.2)}, by_name({"liver": cases(n)}), no_bound)


def said(found: dict[str, Any], distances: dict[str, Any] | None = None, **how: Any) -> Any:
    return judge(**how).of_case({"liver": found}, distances or NEAR)["liver"]


def test_a_case_like_those_that_were_judged_has_a_bound_below_what_is_expected() -> None:
    one = said(GOOD)
    assert one.expected is not None
    assert one.lower is not None
    assert 0 < one.lower < one.expected <= 1
    assert (one.look, one.reasons) == (False, ())


@pytest.mark.parametrize("kind", [*NEAR])
def test_a_shift_is_said_and_no_bound_is_given(kind: str) -> None:
    one = said(GOOD, {**NEAR, kind: SHIFTED + 1})
    assert (one.lower, one.look) == (None, True)
    assert kind.replace("_", " ") in one.reasons[0]


def test_scores_that_are_worse_than_any_that_were_judged_leave_no_bound() -> None:
    one = said({**GOOD, "entropy": 0.99, "margin": 0.01, "components": 400.0, "volume": 9.0})
    assert (one.lower, one.look) == (None, True)
    assert "worse than any that were judged" in one.reasons[0]
    assert any(reason.startswith("components 400") for reason in one.reasons)


def test_too_few_judged_cases_are_said() -> None:
    one = said(GOOD, n=8)
    assert one.expected is not None
    assert (one.lower, one.reasons) == (None, ("no bound: 8 judged cases, and 10 are needed",))


def test_other_settings_are_said() -> None:
    assert said(GOOD, no_bound="of other settings").reasons == ("no bound: of other settings",)


def test_a_class_that_training_always_had_and_is_nowhere_is_to_be_looked_at() -> None:
    one = said({**GOOD, "volume_ml": 0.0, "entropy": None})
    assert (one.expected, one.lower, one.look) == (None, None, True)
    assert one.reasons == ("is nowhere; 20 of 20 cases of training have it",)


def test_a_class_that_training_never_had_is_judged_by_nothing() -> None:
    own = Judge({"odd": UsualVolume(20, 0)}).of_case({"odd": {**GOOD, "volume": None}}, {})["odd"]
    assert own.reasons == ()
    assert own.expected is None


def test_without_a_calibration_what_is_odd_by_itself_is_said() -> None:
    own = Judge().of_case({"liver": {**GOOD, "volume": -7.0, "swapped": 1.0}}, {})["liver"]
    assert own.look
    assert own.reasons == (
        "volume -7.0 deviations from the mean of training",
        "left and right are exchanged",
    )


def test_numbers_that_are_missing_are_no_reason_to_fail() -> None:
    assert said({"volume_ml": 3.0, "entropy": None}).expected is not None


def entries() -> dict[str, Any]:
    bad = {"entropy": 0.99, "margin": 0.01, "components": 400.0, "volume": 9.0}
    found = {"good": GOOD, "bad": {**GOOD, **bad}, "gone": {**GOOD, "volume_ml": 0.0}}
    own = {
        name: {"quality": judge().entry({"liver": one}, NEAR), "case_quality": NEAR}
        for name, one in found.items()
    }
    return {**own, "older": {}}


def test_the_table_has_a_row_for_each_class_the_worst_first() -> None:
    rows = [*csv.DictReader(as_csv(entries()).splitlines())]
    assert [row["case"] for row in rows] == ["gone", "bad", "good"]
    assert [row["look"] for row in rows] == ["yes", "yes", "no"]
    assert rows[2]["lower"] > ""
    assert rows[2]["intensities"] == ""
    assert tuple(rows[0]) == HEAD
    assert float(rows[2]["field_of_view"]) == 0.9


def test_one_line_says_how_many_are_to_be_looked_at() -> None:
    assert to_look_at(entries()) == ["gone", "bad"]
    assert summary_line(entries(), "q.csv") == "2 of 3 scans should be looked at, gone, bad first: q.csv"
    assert summary_line({"good": entries()["good"]}, "q.csv") == "none of 1 scans stands out: q.csv"
    assert summary_line({"older": {}}, "q.csv") == ""


def test_without_calibration_the_highest_entropy_comes_first_and_pieces_are_whole_numbers() -> None:
    entropies = {"a": 0.1, "b": None, "c": 0.9, "d": 0.5}
    made = {
        case: {"quality": {"liver": {"look": False, "expected": None, "entropy": e, "components": 2.0}}}
        for case, e in entropies.items()
    }
    rows = [*csv.DictReader(as_csv(made).splitlines())]
    assert [row["case"] for row in rows] == ["c", "d", "a", "b"]
    assert {row["components"] for row in rows} == {"2"}


def test_case_and_class_names_of_any_kind_are_one_cell() -> None:
    odd = {'a,"b"\nc': {"quality": {"left, lower": {"look": True, "reasons": "x; y, z"}}}}
    (row,) = csv.DictReader(as_csv(odd).splitlines(keepends=True))
    assert (row["case"], row["class"], row["reasons"]) == ('a,"b"\nc', "left, lower", "x; y, z")


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.name)
def test_badness_grows_the_way_that_a_score_says_is_bad(score: Any) -> None:
    low, high = max(score.low, -5), min(score.high, 5)
    grows = [score.badness(low + (high - low) * n / 10) for n in range(11)]
    if score.bad in ("high", "low"):
        assert grows == sorted(grows, reverse=score.bad == "low")
    elif score.bad == "far":
        assert score.badness(3) == score.badness(-3) > score.badness(0)
    assert BY_NAME[score.name] is score
