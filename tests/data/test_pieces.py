"""The usual piece of a structure holds its middle voxel, pieces in order of their size."""

import numpy as np
import pytest

from medfuse.data import pieces
from medfuse.data.pieces import usual_piece, usual_pieces


def balls(shape, *places, half=2):
    mask = np.zeros(shape, bool)
    for place in places:
        mask[tuple(slice(p - half, p + half) for p in place)] = True
    return mask


def test_an_organ_is_one_piece():
    mask = balls((20, 24, 16), (8, 8, 8), half=5)
    assert usual_piece(mask) == mask.sum()


@pytest.mark.parametrize("many", [2, 3, 7])
def test_equal_pieces_are_each_the_usual_one(many):
    mask = balls((6 * many + 6, 12, 12), *((6 * i + 5, 6, 6) for i in range(many)))
    assert usual_piece(mask) == mask.sum() / many


def test_crumbs_beside_a_structure_change_nothing():
    mask = balls((40, 40, 20), (10, 10, 10), half=6)
    mask[25::3, 25::3, ::3] = True
    assert usual_piece(mask) == 12**3


def test_pieces_that_touch_at_a_corner_are_one():
    mask = balls((20, 20, 20), (4, 4, 4), (8, 8, 8))
    assert usual_piece(mask) == mask.sum()


def test_classes_and_regions_have_pieces_of_their_own_and_absent_ones_none():
    labels = np.zeros((30, 20, 20), np.int16)
    labels[2:6, 2:6, 2:6], labels[6:10, 2:6, 2:6], labels[20:22, 2:4, 2:4] = 1, 5, 5
    named = {"a": 1, "b": 5, "both": (1, 5), "c": 7}
    assert usual_pieces(labels, named, 0.5) == {"a": 32.0, "b": 32.0, "both": 64.0}
    assert usual_pieces(np.zeros((4, 4, 4), np.uint8), named, 0.5) == {}


@pytest.mark.parametrize("at_once", [30, 200, 1000])
def test_large_structures_in_blocks_keep_their_voxels(monkeypatch, at_once):
    mask = balls((41, 23, 19), (8, 9, 9), half=5) | balls((41, 23, 19), (34, 9, 9), half=3)
    monkeypatch.setattr(pieces, "AT_ONCE", at_once)
    assert usual_piece(mask) in (10**3, mask.sum())  # blocks may join what lies near each other
    assert usual_piece(balls((41, 23, 19), (8, 9, 9), half=5)) == 10**3


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int64])
def test_pieces_are_the_same_in_any_order_of_memory(kind):
    labels = np.zeros((20, 14, 10), kind)
    labels[balls(labels.shape, (5, 5, 5))] = 2
    labels[balls(labels.shape, (14, 9, 6), half=3)] = 1
    named = {"a": 1, "b": 2, "both": (1, 2)}
    assert usual_pieces(np.asfortranarray(labels), named, 0.5) == usual_pieces(labels, named, 0.5) != {}
