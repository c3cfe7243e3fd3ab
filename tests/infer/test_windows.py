"""Windows cover every voxel, and their weights are a partition of unity."""

import itertools

import numpy as np
import pytest

from medfuse.infer.windows import gaussian, plan_axis, plan_grid, steps, window_starts

AXES = [
    (1, 1, 0.5),
    (7, 7, 0.5),
    (8, 7, 0.5),
    (20, 8, 0.5),
    (97, 32, 0.25),
    (33, 10, 0.0),
    (50, 10, 0.9),
    (9, 2, 0.8),
]


@pytest.mark.parametrize(("size", "window", "overlap"), AXES)
def test_weights_sum_to_one_at_every_voxel(size: int, window: int, overlap: float) -> None:
    axis = plan_axis(size, window, overlap)
    total = np.zeros(size)
    for start, weights in zip(axis.starts, axis.weights):
        total[start : start + window] += weights
    assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("size", "window", "overlap"), AXES)
def test_windows_reach_both_ends_and_leave_no_gap(size: int, window: int, overlap: float) -> None:
    starts = window_starts(size, window, overlap)
    assert (starts[0], starts[-1]) == (0, size - window)
    assert all(0 < b - a <= max(1, window * (1 - overlap) + 1) for a, b in itertools.pairwise(starts))


def test_windows_stand_where_nnunet_puts_them() -> None:
    assert window_starts(110, 64, 0.5) == [0, 23, 46]
    assert window_starts(123, 64, 0.5) == [0, 30, 59]


def test_no_overlap_means_tiles_side_by_side() -> None:
    assert window_starts(40, 10, 0.0) == [0, 10, 20, 30]


def test_an_overlap_that_rounds_badly_costs_no_extra_window() -> None:
    assert window_starts(14, 10, 0.8) == [0, 2, 4]


@pytest.mark.parametrize("size", [1, 5, 10])
def test_an_axis_within_one_window_has_one(size: int) -> None:
    assert window_starts(size, 10, 0.5) == [0]


def test_the_bell_is_symmetric_and_highest_in_the_middle() -> None:
    bell = gaussian(9)
    assert bell == pytest.approx(bell[::-1])
    assert bell.argmax() == 4


def test_the_bells_standard_deviation_is_an_eighth_of_the_window() -> None:
    assert gaussian(17)[8 + 2] / gaussian(17)[8] == pytest.approx(np.exp(-0.5 * (2 / (17 / 8)) ** 2))


def test_weights_over_a_whole_grid_sum_to_one() -> None:
    grid = plan_grid((9, 14, 6), (4, 5, 6), 0.5)
    total = np.zeros(grid.shape)
    for window in grid:
        x, y, z = window.weights
        total[window.where] += x[:, None, None] * y[:, None] * z
    assert total == pytest.approx(1, abs=1e-5)


def test_a_grid_counts_its_windows() -> None:
    grid = plan_grid((8, 8, 4), (4, 4, 4), 0.5)
    assert len(grid) == len(list(grid)) == 9


def test_a_volume_smaller_than_the_window_is_covered_by_one() -> None:
    grid = plan_grid((3, 1, 5), (4, 4, 4), 0.5)
    assert grid.shape == (4, 4, 5)
    assert len(grid) == 2


def test_a_2d_patch_takes_every_slice_once() -> None:
    grid = plan_grid((4, 4, 3), (4, 4), 0.5)
    assert [w.where[2] for w in grid] == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert all(w.weights[2] == [1] for w in grid)


def test_windows_come_row_by_row_along_the_longest_axis() -> None:
    corners = [[part.start for part in w.where] for w in plan_grid((8, 4, 12), (4, 4, 4), 0.5)]
    assert corners == [[x, 0, z] for z in (0, 2, 4, 6, 8) for x in (0, 2, 4)]


def test_the_axis_that_windows_sweep_can_be_chosen() -> None:
    grid = plan_grid((8, 4, 12), (4, 4, 4), 0.5, sweep="x")
    assert [w.where[0].start for w in grid] == [0] * 5 + [2] * 5 + [4] * 5


def test_a_2d_grid_goes_slice_by_slice() -> None:
    assert plan_grid((64, 64, 9), (16, 16), 0.5).order == (2, 0, 1)


@pytest.mark.parametrize(("size", "window", "overlap"), AXES)
def test_what_windows_begin_and_what_they_finish_tiles_the_axis(
    size: int, window: int, overlap: float
) -> None:
    axis = plan_axis(size, window, overlap)
    for parts in (axis.firsts(), axis.bricks()):
        assert [n for part in parts for n in range(part.start, part.stop)] == list(range(size))


@pytest.mark.parametrize("window", [8, 32])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6, 0.9])
def test_windows_that_lie_a_step_apart_stand_where_monai_puts_them(window: int, overlap: float) -> None:
    from monai.data.utils import dense_patch_slices

    for size in range(window, 4 * window):
        step = window if size == window else max(1, int(window * (1 - overlap)))  # as its inferer has it
        theirs = [where[0].start for where in dense_patch_slices((size,), (window,), (step,))]
        assert steps(size, window, overlap) == theirs


@pytest.mark.parametrize("stepped", ["constant", "gaussian"])
@pytest.mark.parametrize("size", [10, 11, 25, 40])
def test_weights_of_windows_a_step_apart_sum_to_one(size: int, stepped) -> None:
    axis = plan_axis(size, 10, 0.3, stepped)
    total = np.zeros(size)
    for start, weights in zip(axis.starts, axis.weights):
        total[start : start + 10] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_equal_weights_are_a_mean_of_the_windows() -> None:
    axis = plan_axis(15, 10, 0.5, "constant")
    assert axis.starts == (0, 5)
    assert axis.weights[0].tolist() == [1] * 5 + [0.5] * 5
