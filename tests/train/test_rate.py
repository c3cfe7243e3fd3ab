"""The sweep of the learning rate."""

import math

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from medfuse import MedfuseError
from medfuse.train.objective import Objective
from medfuse.train.rate import HIGHEST, LOWEST, steepest, sweep_rates
from medfuse.train.settings import TrainSettings


def batches(start):
    while True:
        image = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(start))
        yield {"image": image, "label": (image > 0).long()}
        start += 1


def sweep(loss, **settings):
    torch.manual_seed(0)
    return sweep_rates(
        nn.Conv2d(1, 2, 1),
        fabric=Fabric(accelerator="cpu", devices=1),
        settings=TrainSettings(steps=1, **settings),
        objective=Objective(loss),
        batches=batches,
    )


def test_rates_grow_from_the_lowest_and_one_of_them_is_best():
    found = sweep(lambda logits, label: nn.functional.cross_entropy(logits, label[:, 0]), optimizer="adamw")
    assert found.rates[0] == LOWEST
    assert found.rates[-1] <= HIGHEST
    assert list(found.rates) == sorted(found.rates)
    assert found.best in found.rates
    assert found.losses[-1] < found.losses[0]


def test_a_loss_that_explodes_ends_the_sweep():
    found = sweep(lambda logits, _: (logits + 1).square().mean() * 1000, clip=0)
    assert found.diverges is not None
    assert found.best < found.diverges


def test_the_best_rate_is_where_the_loss_falls_most():
    assert steepest([1, 2, 3, 4], [1.0, 0.9, 0.3, 0.2]) == 3


def test_a_loss_that_is_no_number_at_once_is_one_line():
    with pytest.raises(MedfuseError, match=r"the loss is nan at the lowest learning rate already, 1e-05"):
        sweep(lambda logits, _: logits.sum() * math.nan)
