"""Losses on feature maps: (batch, channels, *spatial) each → scalar, in fp32."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfuse.builtin.nets.layers import CONVOLUTION
from medfuse.model.resample import resize


class MeanPower(nn.Module):
    """mean |x|ᵖ, averaged over the maps."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.power = power

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.stack([x.float().abs().pow(self.power).mean() for x in maps]).mean()


class Correlation(nn.Module):
    """Mean squared correlation over space between two channels of a map, averaged over the maps."""

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.stack([self._of(x.float().flatten(2)) for x in maps]).mean()

    def _of(self, x: Tensor) -> Tensor:
        rows = functional.normalize(x - x.mean(-1, keepdim=True), dim=-1)  # (batch, channels, voxels)
        squared = (rows @ rows.mT).square()
        channels = x.shape[1]
        others = squared.sum((1, 2)) - squared.diagonal(dim1=1, dim2=2).sum(1)
        return (others / (channels * (channels - 1))).mean()


class Matching(nn.Module):
    """How far the student's map, projected and resized, is from the teacher's."""

    def __init__(self, student: int, teacher: int, dims: int, distance: Literal["squared", "cosine"]) -> None:
        super().__init__()
        self.project = nn.Identity() if student == teacher else CONVOLUTION[dims](student, teacher, 1)
        self.distance = distance

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        target = teacher.detach().float()
        made = resize(self.project(student).float(), target.shape[2:], "linear")
        if self.distance == "cosine":
            return (1 - functional.cosine_similarity(made, target, dim=1)).mean()
        return functional.mse_loss(made, target)
