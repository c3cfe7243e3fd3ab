import dataclasses

import numpy as np
import pytest

from medfuse.core.errors import DataError
from medfuse.data.plan import Normalization
from medfuse.data.prepare import Preprocessor, normalize, resample_image, resample_labels


def test_resampling_to_the_same_shape_changes_nothing():
    image = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(resample_image(image, (3, 4, 5)), image)


def test_doubling_and_halving_a_constant_keeps_it():
    image = np.full((1, 4, 4, 4), 7.0, np.float32)
    np.testing.assert_allclose(resample_image(resample_image(image, (8, 8, 8)), (4, 4, 4)), image)


def test_a_linear_ramp_stays_on_its_line():
    ramp = np.broadcast_to(np.arange(4, dtype=np.float32)[:, None, None], (1, 4, 2, 2))
    fine = resample_image(ramp, (8, 2, 2))[0, :, 0, 0]
    np.testing.assert_allclose(fine[1:-1], np.arange(0.25, 2.76, 0.5), atol=1e-6)  # centres at half indices


def test_labels_resampled_by_a_whole_factor_are_blocks():
    labels = np.random.default_rng(0).integers(0, 3, (3, 4, 5)).astype(np.uint8)
    blocks = labels.repeat(3, 0).repeat(3, 1).repeat(3, 2)
    np.testing.assert_array_equal(resample_labels(labels, (9, 12, 15), range(3))[1::3, 1::3, 1::3], labels)
    np.testing.assert_array_equal(resample_labels(blocks, (3, 4, 5), range(3)), labels)


def test_labels_are_the_argmax_of_interpolated_masks():
    labels = np.random.default_rng(1).integers(0, 4, (4, 5, 6)).astype(np.uint8)
    masks = np.stack([(labels == value).astype(np.float32) for value in range(4)])
    expected = resample_image(masks, (7, 7, 7)).argmax(0)
    np.testing.assert_array_equal(resample_labels(labels, (7, 7, 7), range(4)), expected)


def test_ct_is_clipped_then_standardised():
    channel = np.array([[[-500.0, 0.0, 500.0]]], np.float32)
    normalize(channel, Normalization("ct", lower=-100, upper=100, mean=50, std=25))
    np.testing.assert_allclose(channel.ravel(), [-6, -2, 2])


def test_zscore_has_mean_0_and_deviation_1():
    channel = np.random.default_rng(0).normal(300, 40, (5, 5, 5)).astype(np.float32)
    normalize(channel, Normalization("zscore"))
    assert channel.mean() == pytest.approx(0, abs=1e-5)
    assert channel.std() == pytest.approx(1, abs=1e-5)


def test_nonzero_zscore_leaves_zeros_alone():
    channel = np.array([[[0.0, 0.0, 10.0, 20.0]]], np.float32)
    normalize(channel, Normalization("nonzero_zscore"))
    np.testing.assert_allclose(channel.ravel(), [0, 0, -1, 1])


def test_image_and_label_land_on_one_grid(make_case, plan):
    case = make_case(shape=(8, 9, 10), spacing=(1, 2, 0.5))
    preprocessor = Preprocessor(plan)
    prepared = preprocessor.prepare(case)
    assert prepared.image.shape == (1, 8, 18, 5)
    assert preprocessor.prepare_label(case, prepared).shape == (8, 18, 5)


def test_a_flipped_file_gives_the_same_prepared_case(make_case, plan, write):
    case = make_case()
    straight = Preprocessor(plan).prepare(case).image
    affine = np.diag([-1.0, 1, 1, 1])
    affine[0, 3] = 7
    import nibabel

    voxels = np.asarray(nibabel.load(case.images[0]).dataobj)
    write(case.images[0], voxels[::-1].copy(), affine=affine)
    np.testing.assert_array_equal(Preprocessor(plan).prepare(case).image, straight)


def test_label_values_become_class_numbers(make_case, plan):
    label = np.zeros((8, 9, 10), np.int16)
    label[0], label[1] = 5, 300
    case = make_case(label=label)
    preprocessor = Preprocessor(dataclasses.replace(plan, labels={"background": 0, "a": 5, "b": 300}))
    numbers = preprocessor.prepare_label(case, preprocessor.prepare(case))
    assert numbers.dtype == np.uint8
    assert [int(numbers[i, 0, 0]) for i in range(3)] == [1, 2, 0]


def test_a_case_without_label_has_none_to_prepare(make_case, plan):
    case = make_case()
    prepared = Preprocessor(plan).prepare(case)
    with pytest.raises(DataError, match="has no label"):
        Preprocessor(plan).prepare_label(dataclasses.replace(case, label=None), prepared)
