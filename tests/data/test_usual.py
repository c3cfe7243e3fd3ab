"""What is usual among the cases of a plan, and how far another case is from it."""

from typing import Any

import numpy as np
import pytest

from medfuse.core.geometry import Geometry
from medfuse.data.fingerprint import CaseFacts, Fingerprint
from medfuse.data.profile import profile_of
from medfuse.data.usual import distances, usual_of

LABELS = {"background": 0, "liver": 1, "never": 2}


def profile(seed: int, scale: float = 1.0, level: float = 0.0) -> tuple[float, ...]:
    voxels = np.random.default_rng(seed).normal(level, scale, (9, 9, 9)).astype(np.float32)
    return profile_of(voxels)


def fingerprint(profiles: Any = None, n: int = 12) -> Fingerprint:
    cases = [
        CaseFacts(
            f"{number}",
            (60 + number, 60, 30),
            (1.0, 1.0, 2.0 + 0.1 * (number % 3)),
            {"background": 9.0, "liver": 10.0 + number, "never": 0.0},
            {},
            percentiles=profiles if profiles is not None else (profile(number), profile(number + 50)),
        )
        for number in range(n)
    ]
    return Fingerprint(tuple(cases), ())


def grid(
    shape: tuple[int, int, int] = (64, 60, 30), mm: tuple[float, ...] = (1, 1, 2), spaced: bool = True
) -> Geometry:
    return Geometry(shape, np.diag([*mm, 1.0]), spaced)


def test_a_case_like_those_of_training_is_near_and_another_is_far() -> None:
    fixed = [True, False]
    usual = usual_of(fingerprint(), LABELS, fixed)
    near = distances(usual, grid(), [profile(99), profile(98)], fixed)
    assert all(value is not None and value < 1.5 for value in near.values())
    assert (distances(usual, grid(mm=(1, 1, 6)), (), fixed)["spacing"] or 0) > 1.5
    assert (distances(usual, grid(shape=(64, 60, 5)), (), fixed)["field_of_view"] or 0) > 1.5
    hot = distances(usual, grid(), [profile(99, level=8), profile(98)], fixed)
    assert (hot["intensities"] or 0) > 1.5


def test_another_unit_is_no_distance_where_a_channel_is_scaled_by_its_own_numbers() -> None:
    usual = usual_of(fingerprint(), LABELS, [False, False])
    one = distances(usual, grid(), [profile(9), profile(8)], [False, False])["intensities"]
    other = distances(usual, grid(), [profile(9, 500.0), profile(8, 500.0)], [False, False])["intensities"]
    assert one == pytest.approx(other, rel=1e-3)


def test_a_grid_without_a_size_tells_nothing_of_millimetres() -> None:
    usual = usual_of(fingerprint(), LABELS, [True, True])
    found = distances(usual, grid(spaced=False), [profile(9), profile(8)], [True, True])
    assert (found["spacing"], found["field_of_view"]) == (None, None)
    assert found["intensities"] is not None


@pytest.mark.parametrize("profiles", [(), ((), ()), ((1.0,) * 7, (1.0,) * 7), ((1.0,) * 7, ())])
@pytest.mark.parametrize("fixed", [[True, True], [False, False], [True, False]])
def test_channels_of_one_value_and_of_none_are_no_reason_to_fail(profiles: Any, fixed: list[bool]) -> None:
    usual = usual_of(fingerprint(profiles), LABELS, fixed)
    assert distances(usual, grid(), profiles, fixed)["spacing"] is not None
    assert distances(usual, grid(), [profile(1), profile(2)], fixed).get("intensities", 0.0) is not None


def test_volumes_tell_how_many_cases_have_a_class() -> None:
    volumes = usual_of(fingerprint(), LABELS, [True, True]).volumes
    assert {*volumes} == {"liver", "never"}
    assert (volumes["liver"].present, volumes["never"].present) == (12, 0)
    assert volumes["never"].score(3.0) is None


def test_one_case_is_enough() -> None:
    usual = usual_of(fingerprint(n=1), LABELS, [True, True])
    assert distances(usual, grid(), (), [True, True])["spacing"] is not None
