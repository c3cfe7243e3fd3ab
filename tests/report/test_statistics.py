"""What a label map says of its image, counted by hand, and by what turning a grid leaves as it is."""

import csv
import io

import numpy as np
import pytest

from medfuse.core.geometry import Geometry
from medfuse.report.statistics import as_csv, measure

LABELS = {"background": 0, "liver": 1, "tumour": 2, "absent": 5}
AFFINE = np.array([[-2.0, 0, 0, 100], [0, -1, 0, 50], [0, 0, 4, -30], [0, 0, 0, 1]])


def volume() -> tuple[np.ndarray, np.ndarray]:
    """A liver of 4 × 3 × 2 voxels with values 0 … 23, two tumours of 3 and of 1 voxel."""
    label, image = np.zeros((9, 8, 7), np.uint8), np.full((9, 8, 7), -5.0, np.float32)
    label[2:6, 1:4, 3:5] = 1
    image[2:6, 1:4, 3:5] = np.arange(24).reshape(4, 3, 2)
    label[0, 0, 0] = label[8, 7, 4] = label[8, 7, 5] = label[7, 6, 6] = 2
    return label, image


def slabs(*channels: np.ndarray, rows: int = 2):
    for number, channel in enumerate(channels):
        for first in range(0, channel.shape[2], rows):
            yield number, first, channel[:, :, first : first + rows]


def measured(label, image, affine=AFFINE, labels=LABELS, rows=2):
    return measure(label, Geometry(label.shape, affine), labels, ("CT",), slabs(image, rows=rows))


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_numbers_are_those_that_one_counts_by_hand(rows):
    found = measured(*volume(), rows=rows)
    liver, tumour = found["liver"], found["tumour"]
    assert (liver["voxels"], liver["volume_ml"], liver["components"]) == (24, 0.192, 1)
    assert liver["intensity"]["CT"]["mean"] == 11.5
    assert liver["intensity"]["CT"]["deciles"] == pytest.approx(
        np.percentile(np.arange(24), range(10, 100, 10))
    )
    assert liver["box_voxels"] == [[2, 5], [1, 3], [3, 4]]
    assert liver["box_mm"] == [[89, 97], [46.5, 49.5], [-20, -12]]
    assert liver["centroid_mm"] == [93, 48, -16]
    assert (tumour["components"], tumour["component_ml"]) == (2, [0.024, 0.008])


def test_a_class_that_is_absent_has_no_numbers_and_background_is_none():
    found = measured(*volume())
    assert {*found} == {"liver", "tumour", "absent"}
    absent = found["absent"]
    assert (absent["volume_ml"], absent["components"], absent["box_mm"]) == (0, 0, None)
    assert absent["intensity"] == {"CT": None}


def test_a_region_is_the_union_of_its_values():
    found = measured(*volume(), labels={"background": 0, "whole": (1, 2), "tumour": 2})
    assert found["whole"]["voxels"] == 28
    assert found["tumour"]["voxels"] == 4


@pytest.mark.parametrize("axis", range(3))
def test_another_order_of_the_same_voxels_says_the_same_of_the_patient(axis):
    label, image = volume()
    turn = np.eye(4)
    turn[axis, axis], turn[axis, 3] = -1, label.shape[axis] - 1
    turned = measured(np.flip(label, axis), np.flip(image, axis), AFFINE @ turn)
    for name, one in measured(label, image).items():
        for key in one.keys() - {"box_voxels"}:
            assert turned[name][key] == one[key]


def test_the_table_has_a_row_for_each_class_and_the_same_numbers():
    found = measured(*volume())
    rows = [*csv.DictReader(io.StringIO(as_csv({"a": found}, ("CT",))))]
    assert [(row["case"], row["class"]) for row in rows] == [("a", "liver"), ("a", "tumour"), ("a", "absent")]
    liver, tumour, absent = rows
    assert (liver["volume_ml"], liver["CT mean"], liver["min_i"], liver["max_x_mm"]) == (
        "0.192",
        "11.5",
        "2",
        "97.0",
    )
    assert tumour["component_ml"] == "0.024 0.008"
    assert (absent["volume_ml"], absent["CT p50"], absent["x_mm"]) == ("0.0", "", "")
