"""What quick looks tell of a network that has hardly begun to learn, and of one that has."""

import numpy as np
import pytest
import torch

from medfuse.data.plan import DataPlan
from medfuse.runs.looking import dice_of, logits_of, ripe_dice


def plan(**more) -> DataPlan:
    labels = {"background": 0, "a": 1, "b": 2}
    return DataPlan((1.0, 1.0, 1.0), (4, 4, 4), 2, ("MR",), (), labels, {}, **more)


@pytest.fixture
def label():
    return np.random.default_rng(0).integers(0, 3, (6, 7, 8)).astype(np.uint8)


def one_hot(label, classes=3):
    return torch.nn.functional.one_hot(torch.as_tensor(label).long(), classes).movedim(-1, 0).float()


def test_a_sure_network_has_the_same_dice_by_both(label):
    sure = 50 * one_hot(np.where(np.random.default_rng(1).random(label.shape) < 0.8, label, 0))
    found = dice_of([(sure, label)], plan())
    assert ripe_dice([(sure, label)], plan()) == pytest.approx(np.mean([*found["a"], *found["b"]]), abs=1e-6)


def test_a_network_that_ranks_voxels_well_is_known_though_it_says_background_everywhere(label):
    shy = one_hot(label)
    shy[0] += 3
    assert max(map(max, dice_of([(shy, label)], plan()).values())) == 0
    assert ripe_dice([(shy, label)], plan()) == pytest.approx(1)
    torch.manual_seed(0)
    blind = torch.randn(3, *label.shape)
    assert ripe_dice([(blind, label)], plan()) < 0.6


def test_it_rises_with_how_well_voxels_are_ranked(label):
    torch.manual_seed(0)
    noise = torch.randn(3, *label.shape)
    scores = [ripe_dice([(weight * one_hot(label) + noise, label)], plan()) for weight in (0, 1, 2, 4)]
    assert scores == sorted(scores)
    assert scores[-1] > 0.95


def test_it_is_of_all_cases_together(label):
    logits = one_hot(label) + 0.5 * torch.randn(3, *label.shape)
    whole = ripe_dice([(logits, label)], plan())
    halves = [(logits[:, :3], label[:3]), (logits[:, 3:], label[3:])]
    assert ripe_dice(halves, plan()) == pytest.approx(whole)


def test_voxels_that_nobody_annotated_and_labels_that_are_nowhere_do_not_count(label):
    some = np.where(label == 2, 3, label)  # 3: ignored
    assert ripe_dice([(one_hot(label), some)], plan(ignore=9)) == pytest.approx(1)
    assert ripe_dice([], plan()) == 0


def test_of_regions_each_is_judged_by_its_own_logit(label):
    regions = DataPlan(
        (1.0, 1.0, 1.0), (4, 4, 4), 2, ("MR",), (), {"background": 0, "whole": (1, 2), "core": 2}, {}, (1, 2)
    )
    masks = torch.stack([torch.as_tensor(np.isin(label, v)).float() for v in regions.regions])
    assert ripe_dice([(masks - 5, label)], regions) == pytest.approx(1)


def test_logits_follow_to_the_grid_of_the_label(label):
    image = np.zeros((1, 3, 4, 4), np.float32)

    def network(batch):
        return torch.cat([batch, batch + 1, batch], 1)

    from contextlib import nullcontext

    from medfuse.infer.settings import InferSettings

    cases = [(image, label)]
    ((logits, same),) = logits_of(network, cases, plan(), InferSettings(), torch.device("cpu"), nullcontext)
    assert logits.shape == (3, *label.shape)
    assert same is label


def test_it_is_the_same_in_parts_of_any_size(label, monkeypatch):
    logits = one_hot(label) + 0.5 * torch.randn(3, *label.shape)
    whole = ripe_dice([(logits, label)], plan())
    for voxels in (1, 400, 3 * label.size):
        monkeypatch.setattr("medfuse.runs.looking._SLAB", voxels)
        assert ripe_dice([(logits, label)], plan()) == pytest.approx(whole)
