"""Expected Dice and its bound: they fall as scores get worse, and hold as often as is promised."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfuse.core.errors import CheckpointError
from medfuse.quality.calibration import JudgedCase, by_name, calibrated, held_out
from medfuse.quality.conformal import bound, conformal_quantile, parts_of, shortfalls
from medfuse.quality.curve import aurc, risks
from medfuse.quality.honesty import BASELINES, OURS, judged
from medfuse.quality.isotonic import Falling
from medfuse.quality.stored import StoredCalibration, read_calibration, write_calibration

SETTINGS = {"overlap": 0.5, "mirror": ()}


def cases(n: int, seed: int = 0, *, of_each: int = 1, noise: float = 0.04) -> list[JudgedCase]:
    """Whose Dice falls with entropy, more at random where it is high, and a little with volume."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(n):
        entropy, volume = random.uniform(0.1, 0.6), random.normal()
        dice = 0.98 - 0.5 * entropy**2 - 0.02 * abs(volume) - abs(random.normal(0, noise * (0.3 + entropy)))
        scores = {"entropy": entropy, "margin": 1 - entropy, "volume": volume, "components": 1.0}
        made.append(JudgedCase(f"{number}", scores, float(dice), f"{number // of_each}", f"{number % 5}"))
    return made


def values(found: list[JudgedCase]) -> tuple[list[Any], np.ndarray]:
    return [case.scores for case in found], np.array([case.dice for case in found])


@pytest.mark.parametrize("seed", range(8))
def test_steps_are_those_of_scikit_learn(seed: int) -> None:
    isotonic = pytest.importorskip(
        "sklearn.isotonic", reason="scikit-learn, of extra features, is not installed"
    )
    random = np.random.default_rng(seed)
    at, wanted = random.integers(0, 12, 30).astype(float), random.normal(size=30)
    theirs = isotonic.IsotonicRegression(increasing=False, out_of_bounds="clip").fit(at, wanted)
    places = np.linspace(-3, 15, 91)
    assert Falling.fit(at, wanted)(places) == pytest.approx(theirs.predict(places))


def test_steps_never_rise_and_keep_the_mean() -> None:
    random = np.random.default_rng(1)
    at, wanted = random.normal(size=200), random.normal(size=200)
    steps = Falling.fit(at, wanted)
    assert (np.diff(steps(np.linspace(-4, 4, 500))) <= 1e-12).all()
    assert steps(at).mean() == pytest.approx(wanted.mean())


@pytest.mark.parametrize(
    "worse", [("entropy", 0.05), ("margin", -0.05), ("volume", 0.8), ("components", 3.0)]
)
def test_expected_dice_never_rises_as_a_score_gets_worse(worse: tuple[str, float]) -> None:
    name, step = worse
    made = calibrated(cases(60))
    assert made is not None
    start = {"entropy": 0.2, "margin": 0.8, "volume": 0.5, "components": 1.0}
    rows: list[Any] = [{**start, name: start[name] + n * step} for n in range(12)]
    expected = made.expected(rows)
    assert (np.diff(expected) <= 1e-12).all()
    assert expected[-1] < expected[0]


def test_what_is_expected_is_nearer_to_the_truth_than_the_mean() -> None:
    rows, dice = values(cases(300, seed=5))
    made = calibrated(cases(100))
    assert made is not None
    assert np.abs(made.expected(rows) - dice).mean() < 0.6 * np.abs(dice.mean() - dice).mean()


def test_a_bound_holds_as_often_as_it_says() -> None:
    covered = []
    for seed in range(40):
        made = calibrated(cases(60, seed=seed))
        rows, dice = values(cases(200, seed=1000 + seed))
        lower = made.lower(rows) if made else None
        assert lower is not None
        covered.append((dice >= lower).mean())
    assert np.mean(covered) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("n", [10, 19, 50])
def test_the_quantile_covers_exactly_what_counting_says(n: int) -> None:
    random = np.random.default_rng(0)
    covered = [
        (random.uniform(size=50) <= (conformal_quantile(random.uniform(size=n)) or 0)).mean()
        for _ in range(4000)
    ]
    assert np.mean(covered) == pytest.approx(np.ceil((n + 1) * 0.9) / (n + 1), abs=0.006)


def test_fewer_than_ten_cases_give_no_bound() -> None:
    assert conformal_quantile([0.1] * 9) is None
    assert conformal_quantile([0.1] * 10) == 0.1
    few = calibrated(cases(9))
    assert few is not None
    assert few.lower([cases(9)[0].scores]) is None
    assert calibrated(cases(4)) is None


def test_scans_of_few_patients_give_no_bound_however_many_they_are() -> None:
    made = calibrated(cases(40, of_each=8))
    assert made is not None
    assert (made.groups, made.quantile) == (5, None)


def test_patients_are_kept_together() -> None:
    groups = [str(n // 3) for n in range(60)]
    parts = parts_of(groups)
    assert all(len({*parts[np.array(groups) == group].tolist()}) == 1 for group in groups)
    assert np.bincount(parts).tolist() == [6] * 10


def test_no_case_tells_what_is_expected_of_itself() -> None:
    found = cases(30)
    changed = [replace(found[0], dice=0.0), *found[1:]]
    assert held_out(found)[0] == held_out(changed)[0]
    assert held_out(found)[1:].tolist() != held_out(changed)[1:].tolist()


def test_a_shortfall_and_a_bound_undo_each_other() -> None:
    expected, dice = np.array([0.9, 0.5]), np.array([0.8, 0.45])
    for one, other, short in zip(expected, dice, shortfalls(expected, dice)):
        assert bound(np.array([one]), short)[0] == pytest.approx(other)


def test_scores_that_all_cases_share_are_no_reason_to_fail() -> None:
    alike = [replace(case, scores={"entropy": 0.3}, dice=0.9) for case in cases(20)]
    made = calibrated(alike)
    assert made is not None
    assert made.expected([{"entropy": 0.3}])[0] == pytest.approx(0.9)
    assert made.expected([{}])[0] == pytest.approx(0.9)


def brute_force(order: list[float], dice: list[float]) -> float:
    """The mean over all orders of cases that are trusted alike, drawn often."""
    random, found = np.random.default_rng(0), []
    for _ in range(3000):
        ranked = np.lexsort((random.uniform(size=len(order)), -np.asarray(order)))
        lost = 1 - np.asarray(dice)[ranked]
        found.append(np.mean([lost[: k + 1].mean() for k in range(len(lost))]))
    return float(np.mean(found))


def test_the_area_is_the_mean_risk_of_the_cases_that_are_trusted_most() -> None:
    order, dice = [3.0, 1.0, 2.0, 2.0], [0.9, 0.2, 0.8, 0.4]
    assert aurc(order, dice) == pytest.approx(brute_force(order, dice), abs=0.005)
    assert aurc([3, 2, 1], [1.0, 0.5, 0.0]) == pytest.approx((0 + 0.25 + 0.5) / 3)


def test_no_order_at_all_has_the_mean_risk_and_no_order_is_better_than_that_of_dice() -> None:
    dice = np.random.default_rng(2).uniform(size=50)
    assert aurc(np.zeros(50), dice) == pytest.approx(1 - dice.mean())
    best = aurc(dice, dice)
    assert all(best <= aurc(np.random.default_rng(n).normal(size=50), dice) for n in range(20))
    assert risks(dice, dice)[-1] == pytest.approx(1 - dice.mean())


def test_honesty_holds_each_part_against_the_others() -> None:
    found = cases(120)
    told = judged(found)
    assert told is not None
    assert told.areas[OURS].value < min(told.areas[name].value for name in ("volume",))
    assert {*told.ahead} == {*BASELINES}
    assert told.bounded == 120
    assert told.covered == pytest.approx(0.9, abs=0.07)
    assert all(one.low <= one.value <= one.high for one in told.areas.values())


def test_honesty_of_a_single_part_is_not_told() -> None:
    assert judged([replace(case, part="0") for case in cases(30)]) is None


def test_what_is_stored_is_read_again(tmp_path: Path) -> None:
    stored = StoredCalibration(by_name({"liver": cases(40), "few": cases(6)}), ("abc",), SETTINGS)
    write_calibration(tmp_path / "quality.json", stored, by="1.0")
    read = read_calibration(tmp_path / "quality.json")
    rows = [case.scores for case in cases(10, seed=9)]
    for name, one in stored.classes.items():
        assert read.classes[name].expected(rows).tolist() == one.expected(rows).tolist()
        assert read.classes[name].quantile == one.quantile
    assert read.is_of(["abc"])
    assert not read.is_of(["abc", "def"])
    assert read.otherwise({"overlap": 0.5, "mirror": ()}) == ""
    assert "overlap 0.25 in place of 0.5" in read.otherwise({"overlap": 0.25, "mirror": ()})
    assert "mirror x y in place of none" in read.otherwise({"overlap": 0.5, "mirror": ("x", "y")})


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("version",), 2, "is of version 2, and this medfuse reads 1"),
        (("classes", "liver", "quantile"), "much", "classes.liver.quantile"),
        (("classes", "liver", "fit", "slope"), 1.0, "classes.liver.fit.slope"),
        (("classes", "liver", "fit", "steps", "values"), [0.1], "places have"),
        (("classes", "liver", "fit", "scores", "odd"), {"mean": 0, "deviation": 1, "weight": 1}, "'odd'"),
        (("classes", "liver", "fit", "scores", "entropy", "deviation"), 0, "deviation"),
        (("weights",), None, "weights"),
    ],
)
def test_what_is_damaged_is_a_line(tmp_path: Path, place: tuple[str, ...], value: Any, said: str) -> None:
    path = tmp_path / "quality.json"
    write_calibration(path, StoredCalibration(by_name({"liver": cases(40)}), ("abc",), SETTINGS), by="1.0")
    content = json.loads(path.read_text())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError) as error:
        read_calibration(path)
    assert said in error.value.lines[0]
    assert "remove it" in error.value.lines[0]
