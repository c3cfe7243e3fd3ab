"""Maps of one size, each through its own projection, and ways to combine them into one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn

from medfuse.builtin.nets.layers import conv_act, conv_norm_act, initialize
from medfuse.core.features import FeatureInfo

Combination = Callable[[Sequence[Tensor]], Tensor]


class Combined(nn.Module):
    """`combine` of the maps, each of which goes through its own projection first."""

    def __init__(self, combine: Combination, projections: Sequence[nn.Module]) -> None:
        super().__init__()
        self.projections = initialize(nn.ModuleList(projections))
        self.combine = combine

    def forward(self, *maps: Tensor) -> Tensor:
        return self.combine([project(x) for project, x in zip(self.projections, maps)])


def projections(inputs: Sequence[FeatureInfo], channels: int | None, kernel: int = 1) -> list[nn.Module]:
    """For each map a convolution, instance norm and leaky ReLU; nothing where `channels` is None.

    What is image-level has no norm, which would subtract it.
    """
    if channels is None:
        return [nn.Identity() for _ in inputs]
    return [
        conv_act(x.channels, channels, x.dims)
        if x.image_level
        else conv_norm_act(x.channels, channels, (kernel,) * x.dims)
        for x in inputs
    ]


def add(maps: Sequence[Tensor]) -> Tensor:
    return reduce(operator.add, maps)


def subtract(maps: Sequence[Tensor]) -> Tensor:
    return reduce(operator.sub, maps)


def multiply(maps: Sequence[Tensor]) -> Tensor:
    return reduce(operator.mul, maps)


def divide(maps: Sequence[Tensor], *, epsilon: float) -> Tensor:
    """The first over each of the others, which are kept `epsilon` away from 0."""
    first, *others = maps
    return reduce(operator.truediv, (_away_from_zero(x, epsilon) for x in others), first)


def _away_from_zero(x: Tensor, epsilon: float) -> Tensor:
    nearest = torch.where(x < 0, -epsilon, epsilon).to(x.dtype)
    return torch.where(x.abs() < epsilon, nearest, x)


def maximum(maps: Sequence[Tensor]) -> Tensor:
    return reduce(torch.maximum, maps)


def mean(maps: Sequence[Tensor]) -> Tensor:
    return add(maps) / len(maps)


def beside(maps: Sequence[Tensor]) -> Tensor:
    """Side by side along the channels."""
    return torch.cat(list(maps), dim=1)


class WeightedSum(nn.Module):
    """y = Σ wᵢ xᵢ with learned weights that begin as the mean; `channels` is 1 where a map has one weight."""

    def __init__(self, maps: int, channels: int, normalize: Literal["softmax", "none"]) -> None:
        super().__init__()
        self.normalize = normalize
        begin = 0.0 if normalize == "softmax" else 1 / maps
        self.weight = nn.Parameter(torch.full((maps, channels), begin))

    def weights(self) -> Tensor:
        """As they are used, (maps, channels)."""
        return self.weight.softmax(dim=0) if self.normalize == "softmax" else self.weight

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        per_axis = (1,) * (maps[0].ndim - 2)
        return add([w.reshape(1, -1, *per_axis) * x for w, x in zip(self.weights(), maps)])
