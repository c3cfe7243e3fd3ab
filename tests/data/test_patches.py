import dataclasses

import pytest
import torch

from medfuse.core.errors import DataError
from medfuse.data.patches import PatchSampler
from medfuse.data.settings import AugmentSettings, SampleSettings

STILL = AugmentSettings(
    rotate=0, scale=0, noise=0, blur=0, brightness=0, contrast=0, low_resolution=0, gamma=0
)


def sampler(store, plan, names=("a", "b", "empty"), augment=STILL, foreground=0.33, seed=1):
    return PatchSampler(store, names, plan, SampleSettings(foreground=foreground), augment, seed)


def test_a_patch_has_the_shape_of_the_plan(store, plan):
    drawn = sampler(store, plan, augment=AugmentSettings(rotate=1, scale=1)).draw(0)
    assert (drawn["image"].shape, drawn["image"].dtype) == ((1, 8, 8, 8), torch.float32)
    assert (drawn["label"].shape, drawn["label"].dtype) == ((1, 8, 8, 8), torch.int64)


def test_a_number_is_a_patch(store, plan):
    first, second = (sampler(store, plan, augment=AugmentSettings(rotate=1)).draw(5) for _ in range(2))
    assert torch.equal(first["image"], second["image"])


def test_another_seed_is_another_patch(store, plan):
    first, second = (sampler(store, plan, seed=seed).draw(5) for seed in (1, 2))
    assert not torch.equal(first["image"], second["image"])


def test_the_last_patches_of_a_batch_hold_foreground(store, plan):
    drawn = sampler(store, plan, foreground=0.5)
    for batch in range(5):
        assert all(drawn.draw(4 * batch + place)["label"].any() for place in (2, 3))


def test_all_patches_may_be_forced(store, plan):
    assert all(sampler(store, plan, foreground=1).draw(i)["label"].any() for i in range(12))


def test_cases_without_foreground_can_still_be_drawn(store, plan):
    drawn = sampler(store, plan, names=("empty",), foreground=1).draw(0)
    assert not drawn["label"].any()


def test_patches_stay_inside_a_larger_volume(store, plan):
    drawn = [sampler(store, plan, names=("a",)).draw(i)["image"] for i in range(12)]
    assert all((patch != 0).all() for patch in drawn)


def test_a_smaller_volume_lies_in_the_middle_of_the_patch(store, plan):
    image = sampler(store, plan, names=("b",)).draw(0)["image"]
    assert not image[:, 0].any()
    assert not image[:, 7].any()
    assert image[:, 1:7].all()


def test_a_2d_patch_is_one_slice(store, plan):
    flat = dataclasses.replace(plan, patch_size=(8, 8))
    drawn = sampler(store, flat, augment=AugmentSettings(rotate=1, scale=1, mirror=("x",))).draw(3)
    assert drawn["image"].shape == drawn["label"].shape == (1, 8, 8)


def test_a_forced_2d_patch_lies_on_a_slice_with_foreground(store, plan):
    flat = dataclasses.replace(plan, patch_size=(8, 8))
    assert all(sampler(store, flat, foreground=1).draw(i)["label"].any() for i in range(8))


def test_no_training_cases_is_refused(store, plan):
    with pytest.raises(DataError, match="no training cases"):
        sampler(store, plan, names=())


def test_an_unlabelled_patch_comes_as_it_was_before_its_intensities_changed_too(store, plan):
    moved = {"rotate": 1, "mirror": ("x", "y")}
    unlabelled = dataclasses.replace(
        sampler(store, plan, augment=AugmentSettings(noise=1, **moved)), unlabelled=True
    )
    pair = unlabelled.draw(0)
    still = sampler(store, plan, augment=STILL.model_copy(update=moved)).draw(0)
    assert torch.equal(pair["weak"], still["image"])
    assert not torch.equal(pair["image"], pair["weak"])
    assert "label" not in pair
