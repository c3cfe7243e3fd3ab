import numpy as np
import pytest

from medfuse.viewer.coarse import LONGEST, coarse_affine, factors, means, most_frequent, sizes

RANDOM = np.random.default_rng(5)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((512, 512, 400), (0.8, 0.8, 1.5)),
        ((512, 512, 40), (0.7, 0.7, 5.0)),
        ((64, 64, 64), (1, 1, 1)),
        ((20_000, 12_000, 1), (1, 1, 1)),
        ((1, 1, 9_000_000), (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("most", [2**25, 2**18, 1000, 1])
def test_what_is_left_is_within_the_limits(shape, spacing, most):
    left = sizes(shape, factors(shape, spacing, most))
    assert np.prod(left) <= most
    assert max(left) <= LONGEST


def test_a_volume_that_fits_stays_as_it_is():
    assert factors((128, 128, 90), (1, 1, 3), 2**25) == (1, 1, 1)


def test_the_finest_axes_give_way_first():
    x, y, z = factors((512, 512, 400), (0.8, 0.8, 1.5), 2**25)
    assert x == y > z == 1


@pytest.mark.parametrize("by", [(2, 3, 1), (1, 1, 2), (4, 4, 4), (7, 1, 1)])
def test_means_are_those_of_the_blocks(by):
    image = RANDOM.integers(-1000, 2000, (7, 9, 5)).astype(np.int16)
    made = means(image, by)
    x, y, z = (RANDOM.integers(n) for n in made.shape)
    block = image[x * by[0] :, y * by[1] :, z * by[2] :][: by[0], : by[1], : by[2]]
    assert made[x, y, z] == pytest.approx(block.mean(), rel=1e-5)


def test_a_mean_leaves_out_what_is_no_number():
    image = np.array([1, np.nan, 5, np.inf, np.nan, np.nan], np.float32).reshape(6, 1, 1)
    np.testing.assert_array_equal(means(image, (2, 1, 1))[:, 0, 0], [1, 5, np.nan])


@pytest.mark.parametrize("by", [(2, 2, 1), (2, 2, 2), (3, 2, 2), (5, 1, 1)])
def test_the_most_frequent_value_of_a_block_stands_for_it(by):
    labels = RANDOM.choice(np.array([0, 0, 0, 7, 200], np.uint8), (11, 8, 6))
    before = labels.copy()
    made = most_frequent(labels, by)
    for place in np.ndindex(made.shape):
        x, y, z = (slice(i * f, (i + 1) * f) for i, f in zip(place, by))
        block = labels[x, y, z]
        if block.size == np.prod(by):  # smaller ones, at an end, are filled up with their last voxels
            counts = {int(v): int((block == v).sum()) for v in np.unique(block)}
            assert counts[int(made[place])] == max(counts.values())
            if (
                counts.get(0) == max(counts.values())
                and len([c for c in counts.values() if c == counts[0]]) > 1
            ):
                assert made[place] != 0
    np.testing.assert_array_equal(labels, before)


def test_blocks_too_large_to_be_counted_show_a_voxel_of_theirs():
    labels = RANDOM.integers(0, 200, (100, 90, 1)).astype(np.uint8)
    made = most_frequent(labels, (10, 9, 1))
    assert made.shape == (10, 10, 1)
    assert all(
        made[i, j, 0] in labels[10 * i : 10 * i + 10, 9 * j : 9 * j + 9] for i in range(10) for j in range(10)
    )


def test_voxels_lie_in_the_middle_of_what_they_stand_for():
    affine = np.array([[0, -2, 0, 5], [3, 0, 0, 7], [0, 0, 4, 9], [0, 0, 0, 1.0]])
    first = coarse_affine(affine, (2, 3, 1)) @ [0, 0, 0, 1]
    np.testing.assert_allclose(first, affine @ [0.5, 1, 0, 1])
    last = coarse_affine(affine, (2, 3, 1)) @ [4, 2, 6, 1]
    np.testing.assert_allclose(last, affine @ [8.5, 7, 6, 1])
