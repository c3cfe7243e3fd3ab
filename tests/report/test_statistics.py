"""What a label map says of its image, counted by hand, and by what turning a grid leaves as it is."""

import csv
import io

import numpy as np
import pytest

from medfuse.core.geometry import Geometry
from medfuse.quality.components import Components
from medfuse.report.spread import DECILES, Spread
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


def measured(label, image, affine=AFFINE, labels=LABELS, rows=2, image_rows=None):
    parts = [(first, slab) for _, first, slab in slabs(label, rows=rows)]
    geometry = Geometry(label.shape, affine)
    return measure(lambda: parts, geometry, labels, ("CT",), lambda: slabs(image, rows=image_rows or rows))


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


@pytest.mark.parametrize("rows", [1, 2, 3, 9])
@pytest.mark.parametrize("seed", range(3))
def test_components_are_those_of_the_whole_however_it_is_cut(seed, rows):
    from scipy.ndimage import generate_binary_structure, label

    mask = np.random.default_rng(seed).random((11, 12, 9)) < (0.04, 0.1, 0.3)[seed]
    found = Components()
    for first in range(0, 9, rows):
        if (part := mask[:, :, first : first + rows]).any():
            found.add((0, 0, first), part)
    numbered, _ = label(mask, generate_binary_structure(3, 3))
    assert found.sizes() == sorted(np.bincount(numbered.ravel())[1:].tolist(), reverse=True)


NUMBERS = {
    "uint8": lambda random, n: random.integers(0, 256, n).astype(np.uint8),
    "int16": lambda random, n: random.integers(-1024, 3000, n).astype(np.int16),
    "int32": lambda random, n: random.integers(-(2**31), 2**31, n).astype(np.int32),
    "float32": lambda random, n: random.normal(0, 300, n).astype(np.float32),
    "float64": lambda random, n: random.normal(0, 1e-3, n),
    "one value": lambda random, n: np.full(n, -0.0, np.float32),
    "few values": lambda random, n: random.integers(-2, 3, n).astype(np.float32),
    "big endian": lambda random, n: random.integers(-9, 9, n).astype(">i2"),
}


@pytest.mark.parametrize("count", [1, 2, 10, 200_000])
@pytest.mark.parametrize("kind", NUMBERS)
def test_mean_and_deciles_are_exact_though_no_number_is_kept(kind, count):
    numbers, found = NUMBERS[kind](np.random.default_rng(count), count), Spread()
    rounds = 0
    while rounds == 0 or not found.is_known():
        rounds += 1
        for part in np.array_split(numbers, 7):
            found.add(part)
    assert rounds == max(1, numbers.itemsize // 2)
    assert found.mean() == pytest.approx(numbers.mean(dtype=np.float64), abs=1e-9)
    exact = np.percentile(numbers.astype(np.float64), DECILES)
    assert found.deciles() == pytest.approx(exact, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_slabs_of_image_and_labels_need_not_be_alike(dtype):
    label, image = volume()
    whole = measured(label, image.astype(dtype), rows=7)
    for rows, image_rows in ((1, 3), (3, 2), (2, 7)):
        assert measured(label, image.astype(dtype), rows=rows, image_rows=image_rows) == whole
