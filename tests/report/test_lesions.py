"""Lesions are counted one by one, as one counts them by hand."""

import numpy as np
import pytest

from medfuse.report.lesions import Lesions, case_lesions, lesion_intervals, lesions, together


def mask(*places: tuple[int, int, int]) -> np.ndarray:
    made = np.zeros((9, 9, 9), bool)
    for place in places:
        made[place] = True
    return made


A, B, C, D = (1, 1, 1), (4, 4, 4), (7, 7, 7), (1, 7, 1)


def test_found_missed_and_false_ones_are_counted():
    found = lesions(mask(A, D, (4, 4, 5)), mask(A, B, (4, 4, 5), C))
    assert found == Lesions(found=2, missed=1, right=2, false=1)
    assert (found.recall, found.precision) == (pytest.approx(2 / 3, abs=1e-6),) * 2
    assert found.f1 == pytest.approx(4 / 6, abs=1e-6)


def test_one_lesion_that_is_predicted_in_two_parts_is_found_once():
    whole = np.zeros((9, 9, 9), bool)
    whole[1:8, 4, 4] = True
    parts = whole.copy()
    parts[4, 4, 4] = False
    assert lesions(parts, whole) == Lesions(found=1, missed=0, right=2, false=0)
    assert lesions(whole, parts) == Lesions(found=2, missed=0, right=1, false=0)


def test_voxels_that_touch_at_a_corner_are_one_lesion():
    assert lesions(mask((1, 1, 1), (2, 2, 2)), mask()).false == 1


def test_what_is_in_neither_has_no_score_and_what_is_in_one_has_0():
    assert lesions(mask(), mask()).as_row() == {
        **dict.fromkeys(("found", "missed", "right", "false"), 0),
        **dict.fromkeys(("recall", "precision", "F1")),
    }
    assert (lesions(mask(A), mask()).f1, lesions(mask(), mask(A)).f1) == (0, 0)


def test_the_same_map_twice_is_found_wholly_whatever_it_is():
    some = np.random.default_rng(0).random((12, 12, 12)) < 0.02
    same = lesions(some, some)
    assert (same.missed, same.false, same.f1) == (0, 0, 1)


def test_regions_are_unions_and_voxels_that_nobody_annotated_are_left_out():
    reference, prediction = np.zeros((2, 9, 9, 9), np.uint8)
    reference[A], reference[(1, 1, 2)], reference[C] = 1, 2, 9
    prediction[A], prediction[C] = 2, 1
    found = case_lesions(prediction, reference, {"background": 0, "whole": (1, 2), "core": 1}, ignore=9)
    assert found == {"whole": Lesions(1, 0, 1, 0), "core": Lesions(0, 1, 0, 0)}


def test_cases_are_summed():
    assert together([Lesions(1, 2, 3, 4), Lesions(10, 20, 30, 40)]) == Lesions(11, 22, 33, 44)
    assert together([]) == Lesions()


def test_an_interval_of_lesions_is_of_the_pooled_share_and_keeps_patients_together():
    counts = [Lesions(found=n, missed=1, right=n, false=n % 2) for n in range(1, 9)]
    patients = [f"p{n // 2}" for n in range(8)]
    found = lesion_intervals(counts, patients)
    assert {name: one["value"] for name, one in found.items()} == pytest.approx(
        {"recall": 36 / 44, "precision": 36 / 40, "F1": 72 / 84}
    )
    assert {(one["patients"], one["cases"]) for one in found.values()} == {(4, 8)}
    assert all(one["low"] < one["value"] < one["high"] for one in found.values())


def test_where_there_is_no_lesion_there_is_no_interval():
    assert lesion_intervals([Lesions(), Lesions()], ["a", "b"]) == {}
