"""Label maps equal interpolation and argmax, in the file's own axes."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from medfuse.core.geometry import Geometry
from medfuse.infer.export import to_label_map, winners


def logits(classes: int, *shape: int) -> torch.Tensor:
    return torch.randn((classes, *shape), generator=torch.Generator().manual_seed(0))


def geometry(*shape: int, diagonal: tuple[float, float, float] = (1, 1, 1)) -> Geometry:
    i, j, k = shape
    return Geometry((i, j, k), np.diag([*diagonal, 1.0]))


@pytest.mark.parametrize("shape", [(5, 6, 7), (11, 6, 20), (3, 3, 3), (1, 2, 15), (10, 12, 14)])
def test_winners_are_those_of_interpolation_and_argmax(shape: tuple[int, int, int]) -> None:
    coarse = logits(4, 5, 6, 7)
    full = F.interpolate(coarse[None], size=shape, mode="trilinear", align_corners=False)[0]
    assert torch.equal(winners(coarse, shape).long(), full.argmax(0))


def test_a_tie_goes_to_the_lowest_class() -> None:
    assert winners(torch.ones(3, 2, 2, 2), (4, 4, 4)).unique().tolist() == [0]
    tied = torch.tensor([0.0, 2, 1, 2]).reshape(4, 1, 1, 1)
    assert winners(tied, (1, 1, 1)).tolist() == [[[1]]]


def test_logits_are_left_as_they_were() -> None:
    before = logits(3, 4, 4, 4)
    winners(after := before.clone(), (4, 4, 4))
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


def test_a_permuted_file_gets_its_own_shape_back() -> None:
    affine = np.array([[0, 0, 2.0, 0], [1.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]])
    grid = Geometry((8, 10, 6), affine)
    assert grid.ras_shape == (6, 8, 10)
    assert to_label_map(logits(2, 3, 4, 5), grid, [0, 1]).shape == grid.shape


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([0, 1], np.uint8), ([0, 255], np.uint8), ([0, 256], np.uint16), ([0, 70000], np.uint32)],
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
    found = to_label_map(regions, geometry(4, 1, 1), (5, 9), "regions")
    assert found.ravel().tolist() == [5, 9, 0, 5]
