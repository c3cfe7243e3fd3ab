"""Label maps equal interpolation and argmax to the last voxel, however logits are cut, in the file's axes."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

from medfuse.core.geometry import Geometry
from medfuse.infer.bricks import Brick
from medfuse.infer.export import Exporter, Kind, Rows, to_label_map
from medfuse.infer.probabilities import open_probabilities

Shape = tuple[int, int, int]


def logits(classes: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((classes, *shape), generator=torch.Generator().manual_seed(seed))


def smooth(classes: int, *shape: int, seed: int = 0) -> torch.Tensor:
    coarse = logits(classes, 3, 3, 3, seed=seed)
    return F.interpolate(8 * coarse[None], size=shape, mode="trilinear", align_corners=False)[0]


def geometry(*shape: int, diagonal: tuple[float, float, float] = (1, 1, 1)) -> Geometry:
    i, j, k = shape
    return Geometry((i, j, k), np.diag([*diagonal, 1.0]))


def interpolated(scores: torch.Tensor, shape: Shape) -> torch.Tensor:
    return F.interpolate(scores[None], size=shape, mode="trilinear", align_corners=False)[0]


def winners(scores: torch.Tensor, shape: Shape) -> npt.NDArray[np.int64]:
    return interpolated(scores, shape).argmax(0).numpy()


def bricks(scores: torch.Tensor, sweep: int, cuts: Sequence[Sequence[int]]) -> Iterator[Brick]:
    """Intervals that `cuts` makes on every axis, the sweep axis outermost."""
    parts = [
        list(itertools.pairwise([0, *inner, n])) for inner, n in zip(cuts, scores.shape[1:], strict=True)
    ]
    order = sorted(range(3), key=lambda axis: axis != sweep)
    for chosen in itertools.product(*(parts[axis] for axis in order)):
        x, y, z = (slice(*chosen[order.index(axis)]) for axis in range(3))
        yield Brick((x, y, z), scores[:, x, y, z].clone())


def exported(
    scores: torch.Tensor, shape: Shape, *, sweep: int, cuts: Sequence[Sequence[int]], kind: Kind = "softmax"
) -> tuple[list[Rows], Exporter]:
    x, y, z = scores.shape[1:]
    values = range(kind == "regions", len(scores) + (kind == "regions"))
    exporter = Exporter((x, y, z), geometry(*shape), list(values), kind=kind, sweep=sweep)
    rows = [exporter.add(brick) for brick in bricks(scores, sweep, cuts)]
    return [found for found in rows if found is not None], exporter


SHAPES = [(5, 6, 7), (11, 6, 20), (3, 3, 3), (1, 2, 15), (10, 12, 14), (2, 30, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("make", [logits, smooth])
def test_labels_are_those_of_interpolation_and_argmax(make: type, shape: Shape) -> None:
    scores = make(4, 5, 6, 7)
    assert np.array_equal(to_label_map(scores, geometry(*shape), range(4)), winners(scores, shape))


@pytest.mark.parametrize("coarse", [(1, 1, 1), (1, 9, 4), (17, 1, 3), (5, 4, 1)])
def test_axes_of_one_voxel_are_axes(coarse: Shape) -> None:
    scores = logits(5, *coarse)
    assert np.array_equal(to_label_map(scores, geometry(6, 7, 8), range(5)), winners(scores, (6, 7, 8)))


@pytest.mark.parametrize(
    "tied",
    [
        lambda x: x.round(),  # ties all over
        lambda x: 0 * x,
        lambda x: 1.1 + 2.0**-23 * x.round(),  # apart by single roundings
        lambda x: -1000 * x.abs(),
        lambda x: x * 10.0 ** torch.arange(-3, 4),  # large beside small
    ],
    ids=["whole numbers", "equal", "an ulp apart", "very negative", "of all sizes"],
)
@pytest.mark.parametrize("shape", [(13, 20, 7), (9, 5, 24)])
def test_ties_and_near_ties_are_decided_as_torch_decides_them(tied: type, shape: Shape) -> None:
    scores = tied(logits(7, 6, 8, 7))
    assert np.array_equal(to_label_map(scores, geometry(*shape), range(7)), winners(scores, shape))


@pytest.mark.parametrize("sweep", [0, 1, 2])
@pytest.mark.parametrize("kind", ["softmax", "regions"])
def test_cutting_into_bricks_changes_nothing(sweep: int, kind: Kind) -> None:
    scores, shape = smooth(6, 8, 9, 7), (21, 9, 10)
    rows, _ = exported(scores, shape, sweep=sweep, cuts=[(3,), (1, 5), (4, 6)], kind=kind)
    (whole,), _ = exported(scores, shape, sweep=sweep, cuts=[(), (), ()], kind=kind)
    assert len(rows) > 1
    assert np.array_equal(np.concatenate([part.labels for part in rows], sweep), whole.labels)


def test_rows_come_in_order_and_as_soon_as_their_slab_is_there() -> None:
    rows, _ = exported(smooth(3, 9, 5, 5), (27, 10, 5), sweep=0, cuts=[(3, 6), (2,), ()])
    assert [(part.axis, part.start, len(part.labels)) for part in rows] == [(0, 0, 7), (0, 7, 9), (0, 16, 11)]


def test_a_brick_may_be_used_again_once_it_was_added() -> None:
    scores, shape = smooth(3, 6, 6, 6), (12, 12, 12)
    exporter = Exporter((6, 6, 6), geometry(*shape), range(3))
    found = []
    for brick in bricks(scores, 0, [(2, 4), (3,), (3,)]):
        found.append(exporter.add(brick))
        brick.logits.fill_(-1e6)
    labels = np.concatenate([rows.labels for rows in found if rows])
    assert np.array_equal(labels, winners(scores, shape))


def test_later_regions_are_written_over_earlier_ones_where_their_logit_is_positive() -> None:
    scores, shape = smooth(3, 5, 6, 7), (12, 13, 14)
    expected = np.zeros(shape)
    for value, one in zip([5, 2, 9], interpolated(scores, shape).numpy(), strict=True):
        expected[one > 0] = value
    labels = to_label_map(scores, geometry(*shape), [5, 2, 9], kind="regions")
    assert np.array_equal(labels, expected)


def test_voxels_of_each_value_are_counted() -> None:
    rows, exporter = exported(smooth(4, 6, 6, 6), (9, 12, 15), sweep=1, cuts=[(3,), (2, 4), ()])
    labels = np.concatenate([part.labels for part in rows], 1)
    assert exporter.voxels == {value: int((labels == value).sum()) for value in range(4)}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_no_voxel_differs_whatever_the_shapes_and_the_cuts(seed: int) -> None:
    draw = np.random.default_rng(seed)
    coarse, (x, y, z) = draw.integers(1, 16, 3).tolist(), draw.integers(1, 40, 3).tolist()
    scores = (smooth, logits)[seed % 2](int(draw.integers(1, 40)), *coarse, seed=seed)
    scores = scores.round() if seed % 5 == 0 else scores
    cuts = [sorted(set(draw.integers(1, n, 2).tolist())) if n > 1 else [] for n in coarse]
    rows, _ = exported(scores, (x, y, z), sweep=seed % 3, cuts=cuts)
    labels = np.concatenate([part.labels for part in rows], seed % 3)
    assert np.array_equal(labels, winners(scores, (x, y, z)))


@pytest.mark.parametrize("kind", ["softmax", "regions"])
def test_probabilities_are_those_of_interpolated_logits(tmp_path: Path, kind: Kind) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is an extra: pip install 'medfuse[features]'")
    scores, found = smooth(3, 4, 5, 6), tmp_path / "case.zarr"
    with open_probabilities(found, PERMUTED, ["background", "liver", "tumour"], like=tmp_path) as write:
        exporter = Exporter((4, 5, 6), PERMUTED, [0, 1, 2], kind=kind, sweep=2, probabilities=write)
        for brick in bricks(scores, 2, [(2,), (), (1, 3)]):
            exporter.add(brick)
    fine = interpolated(scores, PERMUTED.ras_shape)
    wanted = fine.softmax(0) if kind == "softmax" else fine.sigmoid()
    array = zarr.open_group(str(found), mode="r")["probabilities"]
    assert np.allclose(array[:], PERMUTED.turn.undo(wanted.numpy()), atol=1e-3)
    assert array.attrs["classes"] == ["background", "liver", "tumour"]


def test_probabilities_of_a_case_that_fails_leave_no_folder(tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="zarr is an extra: pip install 'medfuse[features]'")

    def fail() -> None:
        with open_probabilities(tmp_path / "case.zarr", PERMUTED, ["background"], like=tmp_path):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_logits_are_left_as_they_were() -> None:
    before = logits(3, 4, 4, 4)
    to_label_map(after := before.clone(), geometry(8, 8, 8), range(3))
    assert torch.equal(before, after)


def test_more_than_256_classes_keep_their_numbers() -> None:
    scores = torch.zeros(300, 1, 1, 1)
    scores[299] = 1
    assert to_label_map(scores, geometry(1, 1, 1), range(300)).tolist() == [[[299]]]


@pytest.mark.parametrize("flips", [*itertools.product([1, -1], repeat=3)])
def test_labels_lie_in_the_files_own_axes(flips: tuple[float, float, float]) -> None:
    scores = logits(3, 2, 3, 4)
    labels = to_label_map(scores, geometry(2, 3, 4, diagonal=flips), [0, 1, 2])
    assert np.array_equal(labels, np.flip(scores.argmax(0).numpy(), [a for a in range(3) if flips[a] < 0]))


PERMUTED = Geometry((8, 10, 6), np.array([[0, 0, 2.0, 0], [1.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]]))


def test_a_permuted_file_gets_its_own_shape_back() -> None:
    assert PERMUTED.ras_shape == (6, 8, 10)
    assert to_label_map(logits(2, 3, 4, 5), PERMUTED, [0, 1]).shape == PERMUTED.shape


@pytest.mark.parametrize("sweep", [0, 1, 2])
def test_rows_say_where_they_lie_in_a_turned_file(sweep: int) -> None:
    scores = logits(3, 3, 4, 5)
    exporter, whole = Exporter((3, 4, 5), PERMUTED, range(3), sweep=sweep), np.zeros(PERMUTED.shape)
    for brick in bricks(scores, sweep, [(1,), (2,), (2,)]):
        if rows := exporter.add(brick):
            np.moveaxis(whole, rows.axis, 0)[rows.start : rows.start + rows.labels.shape[rows.axis]] = (
                np.moveaxis(rows.labels, rows.axis, 0)
            )
    assert np.array_equal(whole, to_label_map(scores, PERMUTED, range(3)))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 1], np.uint8),
        ([0, 255], np.uint8),
        ([0, 256], np.uint16),
        ([0, 65535], np.uint16),
        ([0, 70000], np.uint32),
    ],
)
def test_values_take_the_smallest_type_that_holds_them(values: list[int], dtype: type) -> None:
    labels = to_label_map(logits(2, 3, 3, 3), geometry(3, 3, 3), values)
    assert labels.dtype == dtype
    assert sorted(np.unique(labels)) == values


def test_values_need_not_be_consecutive_nor_in_order() -> None:
    scores = logits(3, 4, 4, 4)
    labels = to_label_map(scores, geometry(4, 4, 4), [0, 7, 2])
    assert np.array_equal(labels, np.array([0, 7, 2])[scores.argmax(0).numpy()])


def test_regions_are_written_in_order_over_each_other() -> None:
    regions = torch.tensor([[1.0, 1, -1, 1], [-1, 1, -1, 0]]).reshape(2, 4, 1, 1)
    found = to_label_map(regions, geometry(4, 1, 1), (5, 9), kind="regions")
    assert found.ravel().tolist() == [5, 9, 0, 5]
