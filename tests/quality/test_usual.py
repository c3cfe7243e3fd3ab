"""What is usual among cases of training, and how far others are from it."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from medfuse.quality.usual import Usual, UsualNumbers, UsualVolume


def rows(n: int = 30, seed: int = 0) -> list[list[float]]:
    return np.random.default_rng(seed).normal([1.0, 5.0], [0.1, 2.0], (n, 2)).tolist()


def test_the_farthest_case_of_training_is_about_one_and_the_middle_is_0() -> None:
    usual = UsualNumbers.of(rows(), [0.01, 0.01])
    own = [usual.score(row) or 0.0 for row in rows()]
    assert 0.7 < max(own) <= 1
    assert usual.score(usual.middle) == 0


def test_distance_grows_with_any_one_number() -> None:
    usual = UsualNumbers.of(rows(), [0.01, 0.01])
    far = [usual.score([1.0 + step, 5.0]) or 0.0 for step in (0.2, 0.5, 1.0, 10.0)]
    assert far == sorted(far)
    assert far[-1] > 5


def test_cases_that_are_all_alike_leave_the_floor_as_slack() -> None:
    usual = UsualNumbers.of([[1.0]] * 5, [0.1])
    assert usual.score([1.05]) == pytest.approx(0.5)
    assert usual.score([1.5]) == pytest.approx(5.0)


def test_no_unit_changes_a_distance() -> None:
    one = UsualNumbers.of(rows(), [0.01, 0.01])
    other = UsualNumbers.of((np.array(rows()) * 1000).tolist(), [10.0, 10.0])
    assert one.score([1.3, 9.0]) == pytest.approx(other.score([1300.0, 9000.0]))


@pytest.mark.parametrize("row", [[], [1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_what_is_not_known_has_no_distance(row: list[float]) -> None:
    assert UsualNumbers.of(rows(), [0.01, 0.01]).score(row) is None


def test_one_case_is_enough_to_be_held_against() -> None:
    usual = UsualNumbers.of([[1.0, 2.0]], [0.1, 0.1])
    assert (usual.cases, usual.score([1.0, 2.0])) == (1, 0)


def test_exchangeable_cases_are_seldom_much_farther_than_those_of_training() -> None:
    cases = rows(2000, seed=3)
    usual = UsualNumbers.of(cases[:60], [0.01, 0.01])
    beyond = [(usual.score(row) or 0.0) > 1.5 for row in cases[60:]]
    assert np.mean(beyond) < 0.01


def test_what_is_written_is_read_again() -> None:
    usual = Usual(
        {"liver": UsualVolume.of([1.0, 2.0, 3.0])}, {"spacing": UsualNumbers.of(rows(), [0.1, 0.1])}
    )
    assert Usual.from_json(json.loads(json.dumps(asdict(usual)))) == usual
    assert replace(usual, volumes={}) != usual
