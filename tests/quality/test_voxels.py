"""What logits say of single voxels, held against plain formulas."""

import numpy as np
import pytest
import torch

from medfuse.quality.voxels import _winners_there, entropy, margin, winners


def logits(classes: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((classes, 6, 5, 4), generator=torch.Generator().manual_seed(seed)) * 4


@pytest.mark.parametrize("classes", [1, 2, 7, 300])
def test_the_first_of_the_largest_wins_on_any_device(classes: int) -> None:
    found = logits(classes).round()  # so that there are ties
    wanted = found.numpy().argmax(0)
    assert np.array_equal(winners(found), wanted)
    assert np.array_equal(_winners_there(found), wanted)
    assert winners(found).dtype == _winners_there(found).dtype


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_of_any_float_are_decided(kind: torch.dtype) -> None:
    found = logits(3).to(kind)
    assert np.array_equal(winners(found), found.float().numpy().argmax(0))


@pytest.mark.parametrize("classes", [2, 5])
def test_entropy_and_margin_are_what_probabilities_say(classes: int) -> None:
    found = logits(classes)
    p = found.double().softmax(0).numpy()
    two = np.sort(p, axis=0)[-2:]
    assert entropy(found.numpy()) == pytest.approx(-(p * np.log(p)).sum(0) / np.log(classes))
    assert margin(found.numpy()) == pytest.approx(two[1] - two[0])


def test_a_region_is_there_or_not() -> None:
    found = logits(3)
    p = found.double().sigmoid().numpy()
    wanted = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    assert entropy(found.numpy(), "regions") == pytest.approx(wanted)
    assert margin(found.numpy(), "regions") == pytest.approx(np.abs(2 * p - 1))


@pytest.mark.parametrize("size", [0.0, 1e4, 1e30])
def test_no_logit_is_too_large(size: float) -> None:
    found = np.array([[size], [-size], [size]], np.float32)
    assert entropy(found)[0] == pytest.approx(np.log(3 if size == 0 else 2) / np.log(3))
    assert margin(found)[0] == pytest.approx(0)


def test_one_class_is_sure() -> None:
    found = np.zeros((1, 4), np.float32)
    assert entropy(found).tolist() == [0] * 4
    assert margin(found).tolist() == [1] * 4
