"""The intensities of a volume in a few numbers, whatever slabs it comes in."""

import numpy as np
import pytest

from medfuse.data.profile import MOST_SAMPLES, PERCENTS, Sampler, profile, profile_of, shape_of


def volume(shape=(120, 90, 60)) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(120, 90, 60), (7, 9, 5), (1, 400, 400), (300, 300, 1)])
def test_percentiles_are_those_of_all_voxels(shape, order) -> None:
    voxels = np.asarray(volume(shape), order=order)
    np.testing.assert_allclose(profile_of(voxels), np.percentile(voxels, PERCENTS), atol=2.5)


def test_slabs_are_sampled_all_over_and_little_is_kept() -> None:
    sampler, voxels = Sampler((120, 90, 600)), volume()
    for _ in range(10):
        sampler.add(0, voxels)
    assert sum(part.size for part in sampler.kept[0]) <= MOST_SAMPLES * 1.3
    np.testing.assert_allclose(sampler.profiles()[0], np.percentile(voxels, PERCENTS), atol=2.5)


def test_a_ramp_along_any_axis_is_met_everywhere() -> None:
    for axis in range(3):
        ramp = np.moveaxis(np.broadcast_to(np.arange(64.0, dtype=np.float32), (64, 64, 64)), 2, axis)
        np.testing.assert_allclose(profile_of(ramp), np.percentile(ramp, PERCENTS), atol=1)


@pytest.mark.parametrize("gain", [1e-3, 1, 1e4])
def test_a_shape_is_the_same_in_any_unit(gain) -> None:
    found = profile_of(volume())
    np.testing.assert_allclose(shape_of(tuple(gain * p + 7 for p in found)), shape_of(found), rtol=1e-6)


def test_what_has_one_value_or_no_numbers_has_no_shape() -> None:
    assert shape_of(profile_of(np.ones((9, 9, 9), np.float32))) == ()
    assert profile(np.array([1, np.nan], np.float32)) == ()
    assert shape_of(()) == ()
