"""What a step costs, measured."""

import torch
from torch import nn

from medfuse.train.cost import measure_step
from medfuse.train.objective import Objective
from medfuse.train.settings import TrainSettings


def loss(logits, target):
    return nn.functional.cross_entropy(logits, target[:, 0])


def cost(side: int):
    return measure_step(
        lambda: nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.Tanh(), nn.Conv2d(32, 2, 1)),
        Objective(loss),
        TrainSettings(steps=1, precision="fp32"),
        shape=(2, 1, side, side),
        classes=2,
        device=torch.device("cpu"),
    )


def test_a_larger_patch_takes_more_of_both():
    small, large = cost(64), cost(512)
    assert large.bytes > small.bytes + 2 * 32 * 512 * 512 * 4
    assert large.seconds > small.seconds
