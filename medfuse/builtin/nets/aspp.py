"""Atrous spatial pyramid pooling: one map seen by convolutions of several reaches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medfuse.builtin.nets.layers import CONVOLUTION, SLOPE, conv_norm_act, initialize, norm_act
from medfuse.builtin.nets.spp import Pooled


class ASPP(nn.Module):
    """The maps side by side → branches → one map of `channels`."""

    def __init__(self, channels_in: int, channels: int, rates: Sequence[int], dims: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv_norm_act(channels_in, channels, (1,) * dims),
                *(dilated(channels_in, channels, rate, dims) for rate in rates),
                Pooled(channels_in, channels, 1, "average", dims),
            ]
        )
        # Over all channels together: an instance norm would subtract the image-level branch, which is the
        # same at every voxel.
        self.project = nn.Sequential(
            CONVOLUTION[dims](len(self.branches) * channels, channels, 1),
            nn.GroupNorm(1, channels),
            nn.LeakyReLU(SLOPE, inplace=True),
        )
        initialize(self)

    def forward(self, *maps: Tensor) -> Tensor:
        x = torch.cat(maps, dim=1)
        result: Tensor = self.project(torch.cat([branch(x) for branch in self.branches], dim=1))
        return result


def dilated(channels_in: int, channels_out: int, rate: int, dims: int) -> nn.Sequential:
    """3^dims convolution that sees voxels at -rate, 0 and +rate, instance norm, leaky ReLU."""
    convolution = CONVOLUTION[dims](channels_in, channels_out, 3, padding=rate, dilation=rate)
    return nn.Sequential(OrderedDict(conv=convolution, norm_act=norm_act(channels_out, dims)))
