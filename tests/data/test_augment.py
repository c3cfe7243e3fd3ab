import dataclasses

import numpy as np
import pytest
import torch
from monai.data.meta_obj import get_track_meta

from medfuse.data.augment import Augmenter, Warp
from medfuse.data.settings import AugmentSettings

INTENSITY = ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma")
OFF = dict.fromkeys((*INTENSITY, "rotate", "scale"), 0.0)
SIZE = (8, 8, 8)


def patch(seed=0, size=SIZE):
    random = torch.Generator().manual_seed(seed)
    return torch.randn((2, *size), generator=random), torch.randint(0, 3, (1, *size), generator=random)


def test_everything_off_changes_nothing(plan):
    image, label = patch()
    augmentation = Augmenter(AugmentSettings(**OFF), plan)
    changed, changed_label = augmentation.change(image, label, np.random.RandomState(0))
    assert augmentation.draw_warp(np.random.RandomState(0)) is None
    assert torch.equal(changed, image)
    assert torch.equal(changed_label, label)


@pytest.mark.parametrize("name", INTENSITY)
def test_each_intensity_change_leaves_the_label_alone(plan, name):
    image, label = patch()
    augmentation = Augmenter(AugmentSettings(**{**OFF, name: 1}), plan)
    changed, changed_label = augmentation.change(image, label, np.random.RandomState(0))
    assert not torch.equal(changed, image)
    assert changed.shape == image.shape
    assert changed.dtype == torch.float32
    assert torch.equal(changed_label, label)


def test_equal_chance_gives_equal_results(plan):
    image, label = patch()
    augmentation = Augmenter(AugmentSettings(**dict.fromkeys(OFF, 1.0), mirror=("x", "y", "z")), plan)
    first = augmentation.change(image, label, np.random.RandomState(3))
    second = augmentation.change(image, label, np.random.RandomState(3))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_mirroring_moves_image_and_label_together(plan):
    image, _ = patch()
    label = (image[:1] > 0).long()
    augmentation = Augmenter(AugmentSettings(**OFF, mirror=("x", "z")), plan)
    for seed in range(8):
        changed, changed_label = augmentation.change(image, label, np.random.RandomState(seed))
        assert torch.equal((changed[:1] > 0).long(), changed_label)


def test_an_identity_warp_returns_the_patch():
    image, label = patch()
    warp = Warp(np.eye(4))
    assert warp.reach(SIZE) == SIZE
    warped, warped_label = warp(image, label, SIZE)
    assert torch.allclose(warped, image, atol=1e-5)
    assert torch.equal(warped_label, label)


def test_a_quarter_turn_is_a_rotation_of_the_array():
    image, label = patch()
    turn = np.eye(4)
    turn[:2, :2] = [[0, -1], [1, 0]]
    warped, warped_label = Warp(turn)(image, label, SIZE)
    assert any(torch.equal(warped_label, torch.rot90(label, k, (1, 2))) for k in (1, 3))
    assert any(torch.allclose(warped, torch.rot90(image, k, (1, 2)), atol=1e-5) for k in (1, 3))


def test_the_region_read_leaves_no_corner_empty(plan):
    augmentation = Augmenter(AugmentSettings(rotate=1, scale=1), plan)
    for seed in range(10):
        warp = augmentation.draw_warp(np.random.RandomState(seed))
        ones = torch.ones((1, *warp.reach(SIZE)))
        warped, _ = warp(ones, ones.long(), SIZE)
        assert torch.allclose(warped, torch.ones((1, *SIZE)))


def test_the_region_grows_evenly_on_both_sides(plan):
    reach = Augmenter(AugmentSettings(rotate=1), plan).draw_warp(np.random.RandomState(0)).reach(SIZE)
    assert all(r >= n and (r - n) % 2 == 0 for r, n in zip(reach, SIZE))


def test_scaling_by_two_doubles_an_object(plan):
    settings = AugmentSettings(**{**OFF, "scale": 1}, scale_range=(2, 2))
    warp = Augmenter(settings, plan).draw_warp(np.random.RandomState(0))
    label = torch.zeros((1, *SIZE), dtype=torch.long)
    label[0, 3:5, 3:5, 3:5] = 1
    assert warp(label.float(), label, SIZE)[1].sum() == 4**3 - 8  # of its corners less than half is inside


def test_thick_slices_turn_only_in_their_plane(plan):
    thick = dataclasses.replace(plan, spacing_mm=(1.0, 1.0, 5.0))
    warp = Augmenter(AugmentSettings(rotate=1, scale=0), thick).draw_warp(np.random.RandomState(0))
    np.testing.assert_allclose(warp.matrix[2], [0, 0, 1, 0])
    assert warp.matrix[0, 1] != 0


def test_rotation_keeps_millimetres_on_uneven_voxels(plan):
    uneven = dataclasses.replace(plan, spacing_mm=(1.0, 1.0, 2.0))
    warp = Augmenter(AugmentSettings(rotate=1, scale=0), uneven).draw_warp(np.random.RandomState(0))
    in_mm = np.diag([1, 1, 2, 1]) @ warp.matrix @ np.diag([1, 1, 0.5, 1])
    np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(4), atol=1e-12)


def test_monais_tracking_is_left_as_it_was(plan):
    before = get_track_meta()
    Augmenter(AugmentSettings(), plan).change(*patch(), np.random.RandomState(0))
    assert get_track_meta() == before
