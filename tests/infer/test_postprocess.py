import numpy as np
import pytest

from medfuse.infer.postprocess import logit_shifts, tidy
from medfuse.infer.settings import PostprocessSettings

LABELS = {"background": 0, "organ": 1, "lesion": 2}
REGIONS = {"background": 0, "whole": (1, 2), "core": 2}


def row(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(-1, 1, 1)


def tidied(label_map, labels=LABELS, order=(), voxel_ml=1.0, **steps) -> list[int]:
    return tidy(label_map, PostprocessSettings(**steps), labels, order, voxel_ml).ravel().tolist()


def hollow() -> np.ndarray:
    """A cube of label 1 in 5×5×5, hollow but for a voxel of label 2 beside the empty one."""
    cube = np.zeros((6, 5, 5), np.uint8)
    cube[1:5, 1:4, 1:4] = 1
    cube[2, 2, 2], cube[3, 2, 2] = 0, 2
    return cube


def test_the_largest_component_of_a_label_stays():
    assert tidied(row(1, 1, 0, 1, 2, 0, 2), largest_component=["organ"]) == [1, 1, 0, 0, 2, 0, 2]


def test_voxels_that_touch_at_a_corner_are_one_component():
    cube = np.zeros((2, 2, 2), np.uint8)
    cube[0, 0, 0] = cube[1, 1, 1] = 1
    assert sum(tidied(cube, largest_component=["organ"])) == 2


def test_components_below_the_smallest_size_go():
    label_map = row(1, 0, 1, 1, 0, 1, 1, 1)
    assert tidied(label_map, minimum_ml={"organ": 1.0}, voxel_ml=0.5) == [0, 0, 1, 1, 0, 1, 1, 1]


def test_holes_are_filled_but_other_labels_stay():
    filled = np.reshape(tidied(hollow(), fill_holes=["organ"]), (6, 5, 5))
    assert (filled[2, 2, 2], filled[3, 2, 2]) == (1, 2)
    assert (filled[0] == 0).all()


def test_what_a_region_loses_becomes_what_lies_around_it():
    found = tidied(row(1, 2, 2, 1, 2, 0, 2), REGIONS, (1, 2), largest_component=["core"])
    assert found == [1, 2, 2, 1, 1, 0, 1]
    assert tidied(row(1, 2, 0, 2), REGIONS, (1, 2), largest_component=["whole"]) == [1, 2, 0, 0]


def test_a_hole_in_an_inner_region_is_filled_with_its_value():
    cube = np.full((5, 5, 5), 1, np.uint8)
    cube[1:4, 1:4, 1:4], cube[2, 2, 2] = 2, 1
    filled = np.reshape(tidied(cube, REGIONS, (1, 2), fill_holes=["core"]), (5, 5, 5))
    assert filled[2, 2, 2] == 2


@pytest.mark.parametrize(
    "steps", [{"largest_component": ["organ"]}, {"fill_holes": ["organ"]}, {"minimum_ml": {"organ": 2.0}}]
)
def test_tidying_twice_is_tidying_once(steps):
    rng = np.random.default_rng(0)
    label_map = (rng.random((12, 12, 12)) > 0.6).astype(np.uint8)
    settings = PostprocessSettings(**steps)
    once = tidy(label_map, settings, LABELS, (), 1.0)
    np.testing.assert_array_equal(tidy(once, settings, LABELS, (), 1.0), once)


def test_without_steps_a_map_stays_as_it_is():
    label_map = hollow()
    np.testing.assert_array_equal(tidy(label_map, PostprocessSettings(), LABELS, (), 1.0), label_map)


def test_a_shifted_logit_is_above_0_where_the_probability_is_above_the_threshold():
    (shift, untouched) = logit_shifts(PostprocessSettings(threshold={"whole": 0.3}), ("whole", "core"))
    assert 1 / (1 + np.exp(-shift)) == pytest.approx(0.3)
    assert untouched == 0
