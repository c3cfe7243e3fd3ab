"""When two sets of logits are the same but for rounding."""

import re

import pytest
import torch

from medfuse.core.device import disagreement

EXACT = torch.linspace(-3, 3, 2 * 5 * 7 * 4).view(2, 5, 7, 4).sin()


@pytest.mark.parametrize("rounded", [EXACT, EXACT.bfloat16(), EXACT * 1.04])
def test_rounding_is_no_disagreement(rounded):
    assert disagreement(EXACT, rounded) == ""


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (EXACT * 1.1, "relative error 0.1, 100.0% of the voxels"),
        (EXACT.flip(1), "of the voxels in the same class"),
        (EXACT.clone().index_fill_(1, torch.tensor([2]), float("nan")), "relative error nan"),
        (EXACT[:1], r"\(1, 5, 7, 4\) in place of \(2, 5, 7, 4\)"),
    ],
)
def test_more_than_rounding_is_told(given, fault):
    assert re.search(fault, disagreement(EXACT, given))


def test_the_error_is_that_of_all_classes_together():
    given = EXACT.clone()
    given[:, 0] += 0.3
    error = float((given - EXACT).norm() / EXACT.norm())
    assert f"relative error {error:.2g}," in disagreement(EXACT, given)
