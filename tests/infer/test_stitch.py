"""Bricks tile the volume, hold the weighted sum of all windows, and no voxel is held longer than it must."""

import errno
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medfuse.core.errors import OutputError
from medfuse.infer import stitch
from medfuse.infer.shelf import Shelf
from medfuse.infer.stitch import LARGE_SUMS, Brick, Stitcher, are_large, carry_bytes, spare_memory
from medfuse.infer.windows import Grid, hot_voxels, plan_grid

GRIDS = [
    ((9, 11, 6), (4, 4, 4), 0.5),
    ((13, 9, 9), (4, 5, 3), 0.25),
    ((10, 8, 9), (4, 4, 4), 0.0),
    ((11, 7, 5), (5, 3, 4), 0.75),
    ((3, 2, 1), (4, 4, 4), 0.5),
    ((7, 6, 5), (4, 4), 0.5),
    ((1, 1, 30), (4, 4, 4), 0.9),
]
SWEEPS = ["x", "y", "z", None]
every_grid = pytest.mark.parametrize(
    "grid", [plan_grid(*plan, sweep) for plan, sweep in itertools.product(GRIDS, SWEEPS)]
)


def answers(grid: Grid, classes: int = 2) -> Tensor:
    """(windows, classes, *window)"""
    return torch.randn((len(grid), classes, *grid.window), generator=torch.Generator().manual_seed(0))


def stitched(grid: Grid, windows: Tensor, dtype: torch.dtype = torch.float32) -> list[Brick]:
    stitcher = Stitcher(grid, dtype=dtype)
    return [stitcher.add(logits) for logits in windows]


def volume(bricks: list[Brick], grid: Grid) -> Tensor:
    whole = torch.full((len(bricks[0].logits), *grid.shape), torch.nan)
    for brick in bricks:
        whole[(slice(None), *brick.where)] = brick.logits
    return whole


def reference(grid: Grid, windows: Tensor) -> np.ndarray:
    """Everything at once, in float64, with the weights divided by their sum at the end."""
    total, weights = np.zeros((windows.shape[1], *grid.shape)), np.zeros(grid.shape)
    for window, logits in zip(grid, windows.double().numpy()):
        x, y, z = window.weights
        weight = x[:, None, None].astype(float) * y[:, None] * z
        total[(slice(None), *window.where)] += weight * logits
        weights[window.where] += weight
    return total / weights


@every_grid
def test_bricks_tile_the_volume_once(grid: Grid) -> None:
    seen = np.zeros(grid.shape, int)
    for brick in stitched(grid, answers(grid)):
        seen[brick.where] += 1
        assert seen[brick.where].shape == brick.logits.shape[1:]
    assert (seen == 1).all()


@every_grid
def test_bricks_hold_the_weighted_sum_of_all_windows(grid: Grid) -> None:
    windows = answers(grid)
    made = volume(stitched(grid, windows), grid)
    assert made.numpy() == pytest.approx(reference(grid, windows), abs=1e-5)


@every_grid
def test_bricks_come_in_the_order_of_the_windows(grid: Grid) -> None:
    corners = [[brick.where[axis].start for axis in grid.order] for brick in stitched(grid, answers(grid))]
    assert corners == sorted(corners)


@every_grid
def test_a_brick_is_finished_by_its_window_and_no_earlier_one(grid: Grid) -> None:
    for window, brick in zip(grid, stitched(grid, answers(grid)), strict=True):
        assert [part.start for part in brick.where] == [part.start for part in window.where]


@every_grid
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_carry_is_what_it_was_said_to_be(grid: Grid, dtype: torch.dtype) -> None:
    stitcher, peak = Stitcher(grid, dtype=dtype), 0
    for logits in answers(grid, classes=3):
        stitcher.add(logits)
        peak = max(peak, stitcher.carried_bytes)
    assert peak == carry_bytes(grid, 3, dtype.itemsize)
    assert stitcher.carried_bytes == 0


@every_grid
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_with_a_shelf_only_what_the_row_still_needs_is_in_memory(
    grid: Grid, dtype: torch.dtype, tmp_path: Path
) -> None:
    windows = answers(grid)
    with Shelf(tmp_path) as shelf:
        stitcher, bricks, carried = Stitcher(grid, dtype=dtype, shelf=shelf), [], []
        for logits in windows:
            bricks.append(stitcher.add(logits))
            carried.append(stitcher.carried_bytes)
        assert list(tmp_path.iterdir()) == []  # its file has no name
    assert carried == (hot_voxels(grid) * 2 * dtype.itemsize).tolist()
    for brick, other in zip(bricks, stitched(grid, windows, dtype), strict=True):
        assert torch.equal(brick.logits, other.logits)


def test_room_on_the_shelf_is_used_again(tmp_path: Path) -> None:
    sizes = []
    for length in (40, 400):
        grid = plan_grid((length, 12, 12), (8, 8, 8), 0.5)
        with Shelf(tmp_path) as shelf:
            stitcher = Stitcher(grid, shelf=shelf)
            for logits in answers(grid):
                stitcher.add(logits)
            sizes.append(shelf.size)
    assert sizes[0] == sizes[1] > 0


def test_a_full_disk_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def seek(self, place: int) -> None: ...

        def write(self, numbers: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None: ...

    with Shelf(tmp_path) as shelf, monkeypatch.context() as patched:
        patched.setattr(shelf, "_file", Full())
        with pytest.raises(OutputError) as refused:
            shelf.put(torch.zeros(3))
    assert len(refused.value.lines) == 1


def test_without_overlap_nothing_is_carried() -> None:
    assert carry_bytes(plan_grid((12, 8, 8), (4, 4, 4), 0.0), 5, 4) == 0


def test_the_carry_is_the_overlap_of_two_rows_and_not_the_rows() -> None:
    grid = plan_grid((80, 8, 8), (8, 8, 8), 0.5)
    assert carry_bytes(grid, 1, 4) == 4 * 8 * 8 * 4


def test_the_carry_does_not_grow_with_the_length() -> None:
    short, long = (carry_bytes(plan_grid((n, 12, 12), (8, 8, 8), 0.5), 1, 4) for n in (40, 400))
    assert short == long


def test_the_longest_axis_is_swept_as_it_carries_least() -> None:
    of = {sweep: carry_bytes(plan_grid((20, 40, 24), (8, 8, 8), 0.5, sweep), 1, 4) for sweep in SWEEPS}
    assert of[None] == of["y"] == min(of.values()) < max(of.values())


def test_float16_sums_are_close() -> None:
    grid = plan_grid((9, 11, 6), (4, 4, 4), 0.75)
    windows = answers(grid)
    exact, half = (volume(stitched(grid, windows, dtype), grid) for dtype in (torch.float32, torch.float16))
    assert (half - exact).norm() < 2e-3 * exact.norm()
    assert not torch.equal(half, exact)


def test_float16_sums_hold_at_the_largest_they_can_hold() -> None:
    grid = plan_grid((6, 4, 4), (4, 4, 4), 0.5)
    windows = torch.full((len(grid), 1, *grid.window), 1e6)
    assert volume(stitched(grid, windows, torch.float16), grid).isfinite().all()


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_float16_sums_do_not_hide_what_is_infinite(value: float) -> None:
    grid = plan_grid((6, 4, 4), (4, 4, 4), 0.5)
    windows = answers(grid)
    windows[0, 0, 3, 0, 0] = value  # in the overlap, where it is carried
    assert not volume(stitched(grid, windows, torch.float16), grid)[0, 3, 0, 0].isfinite()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_windows_of_small_floats_are_added_up_in_float32(dtype: torch.dtype) -> None:
    grid = plan_grid((9, 11, 6), (4, 4, 4), 0.5)
    windows = answers(grid).to(dtype)
    made = volume(stitched(grid, windows), grid)
    assert made.dtype == torch.float32
    assert made.numpy() == pytest.approx(reference(grid, windows), abs=1e-5)


def test_windows_are_not_changed() -> None:
    grid = plan_grid((6, 4, 4), (4, 4, 4), 0.5)
    windows = answers(grid)
    stitched(grid, windows)
    assert torch.equal(windows, answers(grid))


@pytest.mark.parametrize(("more", "large"), [(1, True), (0, False)])
def test_freed_memory_goes_back_where_sums_are_large(
    monkeypatch: pytest.MonkeyPatch, more: int, large: bool
) -> None:
    told: list[int] = []
    monkeypatch.setattr(stitch, "return_memory", lambda *, blocks: told.append(blocks))
    grid = plan_grid((200, 200, 300), (64, 64, 64), 0.5)
    classes = LARGE_SUMS // carry_bytes(grid, 1, 4) + more
    spare_memory(grid, classes)
    assert are_large(grid, classes) is large
    assert bool(told) is large
