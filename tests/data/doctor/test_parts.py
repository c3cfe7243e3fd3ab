"""Laws of what the doctor measures: what is usual, how structures end, edges under borders, exchanges."""

from pathlib import Path

import numpy as np
import pytest
from anatomy import patient

from medfuse.api import Case, DatasetInfo, Split
from medfuse.data.doctor import people
from medfuse.data.doctor.edges import edges_of
from medfuse.data.doctor.exam import Exam, as_bytes
from medfuse.data.doctor.exchange import by_shape
from medfuse.data.doctor.frame import frame_of
from medfuse.data.doctor.group import Group
from medfuse.data.doctor.shrink import means, middles, steps_for
from medfuse.data.doctor.spread import Spread
from medfuse.data.doctor.structures import structures_of


def test_a_few_odd_numbers_hardly_move_what_is_usual():
    numbers = np.random.default_rng(0).normal(5, 1, 200)
    odd = np.concatenate([numbers[:170], np.full(30, 1000.0)])
    usual = Spread.of(odd)
    assert usual.middle == pytest.approx(5, abs=0.3)
    assert usual.sigma == pytest.approx(1, abs=0.4)
    assert usual.away(1000) > 500


def test_equal_numbers_have_the_deviation_that_is_believed_at_least():
    assert Spread.of([3.0] * 9, floor=0.5).away(4) == 2
    assert Spread.of([3.0] * 9).away(4) == 0


@pytest.mark.parametrize("shape", [(7, 8, 9), (40, 41, 42), (5, 80, 3)])
def test_blocks_are_means_and_their_middles_labels_of_as_many(shape):
    steps = steps_for(shape, 20)
    volume = np.random.default_rng(0).random(shape).astype(np.float32)
    small = means(volume, steps)
    assert small.shape == middles(volume, steps).shape
    assert max(small.shape) <= 20
    first = volume[tuple(slice(0, step) for step in steps)]
    assert small[0, 0, 0] == pytest.approx(first.mean(), rel=1e-5)


def test_ends_are_shares_of_the_largest_section_but_at_the_edge_and_towards_another_label():
    label = np.zeros((12, 12, 12), np.uint8)
    label[2:8, 3:9, 4:10] = 1
    label[8:10, 3:9, 4:10] = 2
    found = structures_of(label)
    assert found[1].ends == (1, 0, 1, 1, 1, 1)  # to the right is label 2
    assert found[0].ends == (1, 1, 1, 1, 1, 1)
    assert structures_of(label[2:])[1].ends[0] == 0  # cut by the image
    assert found[1].box == (slice(2, 8), slice(3, 9), slice(4, 10))
    assert found[0].voxels == found[1].voxels + found[2].voxels


@pytest.mark.parametrize("axis", range(3))
def test_gaps_are_slices_between_alike_ones_and_not_the_space_between_two_lesions(axis):
    label = np.zeros((14, 14, 14), np.uint8)
    label[3:11, 3:11, 3:11] = 1
    left_out = [slice(None)] * 3
    left_out[axis] = slice(6, 8)
    label[tuple(left_out)] = 0
    assert structures_of(label)[1].gaps[axis] == (3, 4)
    apart = np.zeros((14, 14, 14), np.uint8)
    apart[1:4, 1:4, 1:4] = apart[9:12, 9:12, 9:12] = 1
    assert structures_of(apart)[1].gaps == ((), (), ())


@pytest.mark.parametrize("offset", [(0, 0, 0), (4, 0, 0), (0, -3, 0), (0, 0, 3), (2, 2, -2)])
def test_edges_are_found_where_the_label_was_moved_from(offset):
    image, label = patient(3)
    moved = np.roll(label, offset, (0, 1, 2))
    found = edges_of(as_bytes(image[None]), moved, structures_of(moved)[0].box, seed=1)
    assert np.abs(np.add(found.offset, offset)).max() <= 1


def test_a_frame_is_the_same_in_finer_voxels():
    image, label = patient(3)
    fine = [np.kron(voxels, np.ones((2, 2, 2), voxels.dtype)) for voxels in (image, label)]
    one, other = (frame_of(as_bytes(i[None]), v, structures_of(v)[0].box) for i, v in ((image, label), fine))
    assert np.corrcoef(one.core.ravel(), other.core.ravel())[0, 1] > 0.95
    assert (one.labels == other.labels).mean() > 0.95
    assert np.allclose(np.multiply(one.step, 2), other.step)


def test_two_labels_that_stand_for_each_other_are_exchanged_however_small_one_is():
    confusion = np.diag([1000.0, 900, 50, 40])
    confusion[[2, 3]] = confusion[[3, 2]]  # the third lies where the others have the fourth
    found = by_shape(confusion, (0, 1, 2, 3), np.array([40.0, 30, 7, 7]))
    assert found.of == {2: 3, 3: 2}
    assert found.gain > 0.5
    assert by_shape(np.diag([1000.0, 900, 50, 40]), (0, 1, 2, 3), np.ones(4)).of == {}


def test_folds_that_part_a_patient_are_found():
    whose = {"a": "P1", "b": "P1", "c": "P2", "d": None}
    exams = [Exam(Case(name, (Path(name),), Path(name), who), ()) for name, who in whose.items()]
    splits = (Split(("a", "c"), ("b", "d")), Split(("c",), ("a", "b")))
    info = DatasetInfo(tuple(e.case for e in exams), {"background": 0, "organ": 1}, ("CT",), splits)
    (found,) = people.look(Group(exams, info))
    assert found.line.startswith(
        "fold 0 of the dataset's splits: patients (certain): P1 trains and judges (a, b)"
    )
