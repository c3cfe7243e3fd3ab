"""Where the second stage of a cascade looks, and that it loses what it says it loses."""

import numpy as np
import pytest

from medfuse.core.geometry import Geometry
from medfuse.core.region import Region, covering, spread
from medfuse.data.focus import THRESHOLDS, Choice, Focus, loosest, lost_of

FLIPPED = np.array([[0, 0, 3.0, 5], [-1.2, 0, 0, 7], [0, 0.7, 0, -2], [0, 0, 0, 1]])
COARSE = (5, 8, 6)


def case(seed, affine=FLIPPED, shape=(24, 20, 16)):
    """What a first stage finds, the labels in RAS+ near it, and the grid that they are of."""
    random = np.random.default_rng(seed)
    geometry = Geometry(shape, affine)
    found = random.random(COARSE).astype(np.float32) ** 6
    fine = spread(found > 0.3, geometry.ras_shape)
    labels = np.where(random.random(geometry.ras_shape) < 0.02, 2, fine * (random.random(fine.shape) < 0.5))
    return found, labels.astype(np.uint8), geometry


def chosen(cases, may_lose):
    choice = Choice((3.0, 3.0, 3.0))
    for found, labels, geometry in cases:
        choice.add(found, labels, geometry)
    return choice.best(may_lose)


def measured(focus, cases):
    """The most that a label loses in the mean of the cases, by the regions themselves."""
    shares = [lost_of(focus.region(f, g, g.ras_shape), labels) for f, labels, g in cases]
    return max(np.mean([s[value] for s in shares if value in s]) for value in (1, 2))


@pytest.mark.parametrize("may_lose", [0.0, 0.01, 0.2])
@pytest.mark.parametrize("affine", [np.diag([1.0, 1.5, 2.0, 1]), FLIPPED], ids=["plain", "flipped"])
def test_what_it_says_is_lost_is_what_its_regions_lose(affine, may_lose):
    cases = [case(seed, affine) for seed in range(4)]
    focus = chosen(cases, may_lose)
    assert focus.lost <= may_lose
    assert measured(focus, cases) == pytest.approx(focus.lost)
    regions = [focus.region(found, geometry, geometry.ras_shape) for found, _, geometry in cases]
    assert np.mean([region.there.mean() for region in regions]) == pytest.approx(focus.looked_at, abs=1e-4)


def test_the_margin_is_the_smallest_that_keeps_the_bound():
    cases = [case(seed) for seed in range(4)]
    focus = chosen(cases, 0.05)
    assert focus.margin_mm > 0
    assert measured(Focus(focus.threshold, focus.margin_mm - 1.5), cases) > 0.05


def test_a_bound_of_everything_needs_no_margin():
    focus = chosen([case(seed) for seed in range(2)], 0.999)
    assert (focus.threshold, focus.margin_mm) == (max(THRESHOLDS), 0)


def test_a_rare_label_counts_as_much_as_a_large_one():
    found = np.zeros(COARSE, np.float32)
    found[0, 0, 0] = 1
    labels = np.zeros((20, 24, 16), np.uint8)
    labels[:3, :3, :3], labels[-1, -1, -1] = 1, 2
    geometry = Geometry(labels.shape, np.eye(4))
    choice = Choice((4.0, 3.0, 2.6))
    choice.add(found, labels, geometry)
    assert choice.best(0.5).looked_at == 1


def test_where_nothing_is_found_all_is_looked_at():
    _, labels, geometry = case(0)
    nothing = np.zeros(COARSE, np.float32)
    choice = Choice((3.0, 3.0, 3.0))
    choice.add(nothing, labels, geometry)
    assert (choice.nothing, choice.cases) == (1, 1)
    focus = choice.best(0.0)
    assert focus.region(nothing, geometry, geometry.ras_shape) is None
    assert (focus.lost, focus.looked_at) == (0, 1)


def test_a_margin_reaches_as_many_millimetres_along_every_axis():
    found = np.zeros((21, 21, 21), np.float32)
    found[10, 10, 10] = 1
    geometry = Geometry((42, 21, 7), np.diag([0.5, 2.0, 3.0, 1]))  # coarse voxels of 1 × 2 × 1 mm
    there = Focus(0.5, 4.0).region(found, geometry, geometry.ras_shape).there
    assert [np.ptp(axis) for axis in np.nonzero(there)] == [8, 4, 8]


def test_a_voxel_is_covered_by_the_one_that_its_middle_lies_in():
    assert [covering(n, 7, 3) for n in range(7)] == [0, 0, 1, 1, 1, 2, 2]
    assert [covering(n, 2, 5) for n in range(2)] == [1, 3]
    for fine, coarse in ((7, 3), (2, 5), (64, 64), (513, 171)):
        at = covering(np.arange(fine), fine, coarse)
        assert (at == np.floor((np.arange(fine) + 0.5) / fine * coarse + 1e-9)).all()


def test_a_window_touches_a_region_where_one_of_its_voxels_is_of_it():
    random = np.random.default_rng(0)
    region = Region(random.random((5, 3, 7)) < 0.1, (16, 11, 9))
    whole = region.whole()
    for _ in range(200):
        start = random.integers(0, region.shape)
        stop = np.minimum(start + random.integers(1, 6, 3), region.shape)
        where = tuple(slice(int(a), int(b)) for a, b in zip(start, stop))
        assert region.touches(where) == whole[where].any()


def test_of_several_folds_the_one_that_looks_further_counts():
    both = loosest([Focus(0.5, 3.0, 0.001, 4, 0.2), Focus(0.1, 2.0, 0.0, 4, 0.3)])
    assert (both.threshold, both.margin_mm, both.cases) == (0.1, 3.0, 8)
    assert loosest([Focus(0.5, 3.0), None]) is None
    assert loosest([]) is None
