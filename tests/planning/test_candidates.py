"""Which networks and grids are thought of, by what a dataset is like."""

from dataclasses import replace
from itertools import pairwise

import pytest

from medfuse.data.fingerprint import CaseFacts, Fingerprint
from medfuse.data.plan import DataPlan
from medfuse.planning.bench import Bench
from medfuse.planning.candidates import ACROSS, ROWS, Candidate, dimensions, grids
from medfuse.planning.sizing import Grid, Size
from medfuse.train.cost import StepCost


def known(shape, spacing=(1.0, 1.0, 1.0), ml=200.0):
    case = CaseFacts("a", shape, spacing, {"background": 1e4, "organ": ml}, {})
    plan = DataPlan(spacing, (8, 8, 8), 2, ("MR",), (), {"background": 0, "organ": 1}, {})
    return Fingerprint((case,), ()), plan


@pytest.mark.parametrize(
    ("shape", "spacing", "first"),
    [
        ((512, 512, 300), (0.8, 0.8, 1.0), "3"),
        ((36, 50, 36), (1.0, 1.0, 1.0), "3"),
        ((216, 256, 10), (1.4, 1.4, 8.0), "2"),
        ((216, 256, 10), (1.0, 1.0, 1.0), "2"),  # a header that lost its spacing
        ((36, 50, 7), (1.0, 1.0, 5.0), "2"),
        ((300, 200, 1), (1.0, 1.0, 1.0), "2"),
        ((12, 256, 256), (8.0, 1.0, 1.0), "3"),  # a network of two axes would see slices of 12 rows
    ],
)
def test_few_thick_slices_are_for_networks_of_two_axes_first(shape, spacing, first):
    options = dimensions(Grid(spacing, shape))
    assert options[0][0] == first
    assert {dims for dims, _ in options} == ({"2"} if shape[2] == 1 else {"2", "2.5", "3"})
    assert all(reason for _, reason in options)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((512, 512, 300), (0.8, 0.8, 1.0)),
        ((512, 400, 60), (0.7, 0.7, 5.0)),
        ((216, 256, 10), (1.0, 1.0, 1.0)),
        ((36, 50, 36), (1.0, 1.0, 1.0)),
    ],
)
def test_grids_get_coarser_along_what_a_network_sees_and_keep_rows_and_structures(shape, spacing, dims):
    found = grids(*known(shape, spacing), dims)
    assert found[0] == Grid(spacing, shape)
    diameter = 72.6  # mm of a ball of 200 ml
    for finer, coarser in pairwise(found):
        assert all(a <= b for a, b in zip(finer.spacing_mm, coarser.spacing_mm))
        assert coarser.shape != finer.shape
        assert min(coarser.spacing_mm[:dims]) * ACROSS <= diameter + 1e-6
        assert coarser.spacing_mm[dims:] == spacing[dims:]
        changed = [a for a in range(3) if coarser.shape[a] != shape[a]]
        assert all(coarser.shape[axis] >= ROWS for axis in changed)


def test_small_structures_keep_a_grid_fine():
    assert len(grids(*known((512, 512, 300), ml=0.5), 3)) == 1
    assert len(grids(*known((512, 512, 300), ml=2000), 3)) > 3


@pytest.mark.parametrize(("axis", "spacing"), [("x", (6.0, 1.0, 1.0)), ("y", (1.0, 6.0, 1.0))])
def test_sagittal_and_coronal_slices_are_told_as_such(axis, spacing):
    shape = tuple(round(60 / s) for s in spacing)
    (first, why), *others = dimensions(Grid(spacing, shape))
    assert (first, why) == (
        "3",
        f"slices are stacked along {axis}, 6.0 times as far apart as voxels within one",
    )
    assert all("across these slices" in reason for _, reason in others)


def test_judging_takes_longer_by_smaller_windows_and_slice_by_slice():
    def seconds(dims, patch, shape=(100, 80, 40)):
        bench = Bench(known(shape)[1], dims, "cpu", None)
        size = Size(8, Grid((1.0, 1.0, 1.0), shape), patch, 2, StepCost(0.6, 1), 100, "", "", "")
        return Candidate(dims, "", bench, size).judging()

    assert seconds("3", (104, 80, 40)) == pytest.approx(0.1)
    assert seconds("3", (52, 40, 40)) == pytest.approx(0.1 * 3 * 3)
    assert seconds("2", (104, 80)) == pytest.approx(0.1 * 40)


def test_how_much_coarser_a_grid_is_goes_by_the_axis_where_that_is_most():
    sagittal = Grid((8.0, 1.0, 1.0), (12, 256, 256))
    assert Grid((8.0, 2.0, 2.0), (12, 128, 128)).times_coarser(sagittal) == 2
    assert sagittal.times_coarser(sagittal) == 1


def test_lesions_count_by_their_pieces_and_an_organ_by_its_whole():
    known_cases, plan = known((256, 256, 200), ml=50.0)
    scattered = Fingerprint((replace(known_cases.cases[0], pieces_ml={"organ": 1.0}),), ())
    whole = Fingerprint((replace(known_cases.cases[0], pieces_ml={"organ": 50.0}),), ())
    coarsest = max(grid.spacing_mm[0] for grid in grids(scattered, plan, 3))
    assert coarsest * ACROSS <= 12.5  # mm of a ball of 1 ml
    assert grids(whole, plan, 3) == grids(known_cases, plan, 3)
    assert max(grid.spacing_mm[0] for grid in grids(whole, plan, 3)) > coarsest
