import dataclasses
import itertools

import nibabel
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from medfuse.api import Case
from medfuse.core.errors import DataError
from medfuse.data.images import read_image
from medfuse.data.plan import Normalization, resampled_shape
from medfuse.data.prepare import (
    Preprocessor,
    measured,
    normalize,
    renumbered,
    resample_image,
    resample_labels,
)
from medfuse.volumes.read import read_volume

SCALES = [
    Normalization("ct", lower=60, upper=140, mean=100, std=12),
    Normalization("zscore"),
    Normalization("nonzero_zscore"),
    Normalization("none"),
    Normalization("unit"),
    Normalization("symmetric"),
    Normalization.window(60, 140),
]


def whole(preprocessor: Preprocessor, case: Case) -> np.ndarray:
    """The image as torch makes it from the whole volume."""
    image, geometry = read_image(case, len(preprocessor.plan.channels))
    for channel, how in zip(image, preprocessor.plan.normalization):
        normalize(channel, how)
    shape = resampled_shape(geometry.ras_shape, geometry.ras_spacing_mm, preprocessor.plan.spacing_mm)
    turned = torch.from_numpy(geometry.turn.apply(image).copy())
    return interpolate(turned[None], shape, mode="trilinear", align_corners=False)[0].numpy()


@pytest.fixture
def small_slabs(monkeypatch):
    """Slabs of two or three rows, so that a small volume has many."""
    monkeypatch.setattr("medfuse.volumes.volume.SLAB_VOXELS", 200)


TURNS = [*itertools.product(itertools.permutations(range(3)), itertools.product([1.0, -1.0], repeat=3))]


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize(("axes", "signs"), TURNS)
def test_slabs_give_what_torch_makes_of_the_whole_volume(make_case, plan, write, axes, signs):
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3)[:, axes] @ np.diag([0.7, 1.4, 2.2])) * signs
    tilt = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])  # oblique
    affine[:3, :3] = tilt @ affine[:3, :3]
    case = make_case()
    write(
        case.images[0],
        np.random.default_rng(1).normal(100, 20, (9, 10, 17)).astype(np.float32),
        affine=affine,
    )
    preprocessor = Preprocessor(plan)
    made, expected = preprocessor.prepare(case).image, whole(preprocessor, case)
    assert made.flags.c_contiguous
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("how", SCALES, ids=lambda how: how.kind)
def test_every_normalization_is_the_same_in_slabs(make_case, plan, write, how):
    case = make_case()
    voxels = np.random.default_rng(1).integers(0, 200, (9, 10, 17)).astype(np.int16)
    voxels[:4] = 0
    write(case.images[0], voxels, spacing=(1.5, 0.8, 1.2))
    preprocessor = Preprocessor(dataclasses.replace(plan, normalization=(how,)))
    np.testing.assert_allclose(
        preprocessor.prepare(case).image, whole(preprocessor, case), rtol=2e-6, atol=1e-6
    )


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
@pytest.mark.parametrize("shape", [(1, 10, 17), (9, 1, 1), (9, 10, 1), (1, 1, 1)])
def test_axes_of_one_voxel_are_prepared(tmp_path, plan, shape, ending):
    import SimpleITK as sitk

    path = tmp_path / f"a{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(np.random.default_rng(0).normal(size=shape[::-1])), str(path))
    preprocessor = Preprocessor(dataclasses.replace(plan, spacing_mm=(0.6, 1.3, 0.9)))
    case = Case("a", (path,))
    np.testing.assert_allclose(preprocessor.prepare(case).image, whole(preprocessor, case), atol=1e-6)


@pytest.mark.usefixtures("small_slabs")
def test_channels_of_one_file_and_of_several_are_the_same(tmp_path, plan, write):
    channels = np.random.default_rng(0).normal(50, 9, (9, 10, 17, 2)).astype(np.float32)
    together = Case("a", (write(tmp_path / "a.nii.gz", channels),))
    apart = Case("a", tuple(write(tmp_path / f"{c}.nii", channels[..., c]) for c in range(2)))
    two = dataclasses.replace(
        plan, channels=("a", "b"), normalization=(SCALES[0], SCALES[1]), spacing_mm=(2.0, 1.0, 1.5)
    )
    one, other = (Preprocessor(two).prepare(case).image for case in (together, apart))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(one, whole(Preprocessor(two), together), atol=1e-6)


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("dtype", ["int8", "uint8", ">i2", "uint16", ">f4", "int64", "float64"])
def test_every_number_type_and_byte_order_is_read_in_slabs(tmp_path, dtype):
    voxels = np.random.default_rng(0).integers(0, 100, (9, 10, 17)).astype(dtype)
    image = nibabel.Nifti1Image(voxels, np.eye(4), dtype=voxels.dtype)
    image.header.set_slope_inter(*((2, -3) if voxels.dtype.itemsize < 4 else (1, 0)))
    nibabel.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(
        read_image(Case("a", (tmp_path / "a.nii.gz",)), 1)[0][0], read_volume(tmp_path / "a.nii.gz").array
    )


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_an_image_on_disk_holds_the_same_voxels(make_case, plan, tmp_path, write, signs):
    case = make_case()
    voxels = np.random.default_rng(1).normal(size=(9, 10, 17)).astype(np.float32)
    write(case.images[0], voxels, affine=np.diag([*(0.8 * np.array(signs)), 1]))
    here = Preprocessor(plan).prepare(case).image
    disk = Preprocessor(plan).prepare(case, scratch=tmp_path).image
    assert disk.shape == here.shape
    np.testing.assert_array_equal(disk[:, 2:5, :, 3:], here[:, 2:5, :, 3:])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "labels"]


def test_an_array_is_prepared_as_its_file_is(make_case, plan):
    case = make_case(spacing=(1, 2, 0.5))
    volume = read_volume(case.images[0])
    made = Preprocessor(plan).prepare_array(volume.array[None], volume.geometry)
    np.testing.assert_array_equal(made, Preprocessor(plan).prepare(case).image)


def test_the_headers_tell_the_shape_of_what_is_prepared(make_case, plan):
    case = make_case(spacing=(1, 2, 0.5))
    preprocessor = Preprocessor(plan)
    assert preprocessor.look(case).shape == preprocessor.prepare(case).image.shape


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


@pytest.mark.usefixtures("small_slabs")
def test_zscore_leaves_out_margins_that_are_0_in_every_channel(make_case, plan, write):
    random = np.random.default_rng(0)
    case = make_case()
    paths = [case.images[0], case.images[0].with_name("other.nii.gz")]
    channels = np.zeros((2, 9, 10, 17), np.float32)
    channels[0, 2:5, 3:9, 4:16] = random.normal(300, 40, (3, 6, 12))
    channels[0, 3, 4:6, 5:9] = 0  # a hole, which counts
    channels[1, 3:7, 2:6, 4:9] = random.normal(-3, 2, (4, 4, 5))
    for path, channel in zip(paths, channels):
        write(path, channel)
    plan = dataclasses.replace(plan, channels=("T1", "T2"), normalization=(Normalization("zscore"),) * 2)
    made = Preprocessor(plan).prepare(dataclasses.replace(case, images=tuple(paths))).image
    box = channels[:, 2:7, 2:9, 4:16].reshape(2, -1).astype(np.float64)
    mean, std = (m[:, None, None, None] for m in (box.mean(1), box.std(1)))
    np.testing.assert_allclose(made, (channels - mean) / std, rtol=0, atol=1e-5)


def test_zscore_of_an_empty_volume_is_0():
    channel = np.zeros((3, 3, 3), np.float32)
    normalize(channel, Normalization("zscore"))
    assert not channel.any()


def test_nonzero_zscore_leaves_zeros_alone():
    channel = np.array([[[0.0, 0.0, 10.0, 20.0]]], np.float32)
    normalize(channel, Normalization("nonzero_zscore"))
    np.testing.assert_allclose(channel.ravel(), [0, 0, -1, 1])


@pytest.mark.parametrize(("kind", "least", "share"), [("unit", 0, 0.5), ("symmetric", -1, 0.05)])
def test_percentiles_of_a_volume_become_the_ends_of_its_range(kind, least, share):
    channel = np.random.default_rng(0).normal(400, 90, (40, 50, 30)).astype(np.float32)
    low, high = np.percentile(channel, (share, 100 - share))
    expected = least + (1 - least) * (np.clip(channel, low, high) - low) / (high - low)
    normalize(channel, Normalization(kind))
    np.testing.assert_allclose(channel, expected, atol=1e-5)
    assert (channel.min(), channel.max()) == (pytest.approx(least), pytest.approx(1))


@pytest.mark.parametrize("kind", ["unit", "symmetric"])
def test_of_a_constant_volume_there_are_no_percentiles_to_scale_by(kind):
    channel = np.full((3, 3, 3), 7, np.float32)
    normalize(channel, Normalization(kind))
    assert np.isfinite(channel).all()


@pytest.mark.parametrize("rows", [1, 3, 30])
def test_percentiles_of_a_large_volume_are_of_the_same_voxels_however_it_comes(monkeypatch, rows):
    monkeypatch.setattr("medfuse.data.prepare._MOST_SAMPLES", 500)
    channel = np.random.default_rng(0).normal(400, 90, (13, 17, 30)).astype(np.float32)
    slabs = [(0, first, channel[:, :, first : first + rows]) for first in range(0, 30, rows)]
    (found,) = measured(slabs, [Normalization("unit")])
    sample = channel.transpose(2, 0, 1).ravel()[::16]  # the first power of two that leaves 500
    assert (found.lower, found.upper) == tuple(np.percentile(sample, (0.5, 99.5)))
    assert found.lower == pytest.approx(np.percentile(channel, 0.5), abs=60)


def test_a_window_brings_its_ends_to_0_and_1():
    channel = np.array([-1000, -160, 40, 240, 3000], np.float32).reshape(5, 1, 1)
    normalize(channel, Normalization.window(-160, 240))
    np.testing.assert_allclose(channel.ravel(), [0, 0, 0.5, 1, 1])


@pytest.mark.usefixtures("small_slabs")
def test_windows_make_a_channel_each_of_one_and_leave_others_as_they_are(tmp_path, plan, write):
    voxels = np.random.default_rng(0).normal(0, 400, (9, 10, 17, 2)).astype(np.float32)
    case = Case("a", (write(tmp_path / "a.nii.gz", voxels),))
    ends = ((-1350.0, 150.0), (-160.0, 240.0), (-500.0, 1300.0))

    def made(*how: Normalization) -> Preprocessor:
        return Preprocessor(
            dataclasses.replace(plan, channels=("CT", "PET"), normalization=how, spacing_mm=(2.0, 1.0, 1.5))
        )

    together = made(Normalization("windows", windows=ends), Normalization("none"))
    image = together.prepare(case).image
    assert together.plan.image.channels == len(image) == together.look(case).shape[0] == 4
    for number, one in enumerate(ends):
        alone = made(Normalization.window(*one), Normalization("none")).prepare(case).image
        np.testing.assert_array_equal(image[number], alone[0])
        np.testing.assert_array_equal(image[3], alone[1])


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


@pytest.mark.parametrize("spacing", [1e6, 1e12, 1e30])
def test_a_spacing_that_is_a_mistake_is_named_before_reading(tmp_path, plan, write, spacing):
    path = write(tmp_path / "a.nii.gz", np.zeros((24, 24, 16), np.int16), (spacing,) * 3)
    for prepare in (Preprocessor(plan).look, Preprocessor(plan).prepare):
        with pytest.raises(DataError, match=r"a spacing of .* are free"):
            prepare(Case("a", (path,)))


@pytest.mark.parametrize("values", [(0, 1, 2), (0, 2, 1), (2, 0, 1), (0, 1, 2, 700)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_label_values_become_their_numbers_wherever_they_are(values, order):
    labels = np.random.default_rng(0).integers(0, 3, (5, 6, 7)).astype(np.uint8, order=order)
    numbers = {value: number for number, value in enumerate(values)}
    made = renumbered(labels, numbers)
    assert np.array_equal(made, np.vectorize(numbers.get)(labels))
    turned = resample_labels(made, made.shape, range(3))
    assert np.array_equal(turned, made)
    assert turned.flags.c_contiguous
