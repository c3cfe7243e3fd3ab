"""Encoder and decoder of the plain U-Net of nnU-Net."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medfuse.builtin.nets.layers import NNUNETS, Style, conv_stage, initialize, transposed
from medfuse.model.resample import fit


class Encoder(nn.Module):
    """x → the coarsest stage's output. Every stage is a module of its own, so that it can be tapped."""

    def __init__(
        self,
        channels_in: int,
        channels: Sequence[int],
        kernels: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        convs: Sequence[int],
        style: Style = NNUNETS,
    ) -> None:
        super().__init__()
        before = (channels_in, *channels)
        self.stages = nn.Sequential(
            *(conv_stage(*plan, style) for plan in zip(before, channels, kernels, strides, convs))
        )
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.stages(x)
        return result


class Decoder(nn.Module):
    """Maps in any order → [the finest stage's output, coarser ones finest first], or the finest alone.

    `order` lists the inputs coarsest first, and so do their `channels`; stage i goes from order[i] to
    order[i + 1], and makes widths[i] channels.
    """

    def __init__(
        self,
        order: Sequence[int],
        channels: Sequence[int],
        widths: Sequence[int],
        ratios: Sequence[Sequence[int]],
        kernels: Sequence[Sequence[int]],
        convs: Sequence[int],
        style: Style = NNUNETS,
    ) -> None:
        super().__init__()
        self.order = tuple(order)
        self.upsample = nn.ModuleList(
            transposed(below, width, ratio, bias=style.bias)
            for below, width, ratio in zip((channels[0], *widths), widths, ratios)
        )
        self.stages = nn.ModuleList(
            conv_stage(width + skip, width, kernel, (1,) * len(kernel), count, style)
            for skip, width, kernel, count in zip(channels[1:], widths, kernels, convs)
        )
        initialize(self)

    def forward(self, *inputs: Tensor) -> Tensor | list[Tensor]:
        coarsest, *skips = (inputs[index] for index in self.order)
        x, made = coarsest, []
        for upsample, stage, skip in zip(self.upsample, self.stages, skips):
            x = stage(torch.cat([fit(upsample(x), skip.shape[2:]), skip], dim=1))
            made.append(x)
        return x if len(made) == 1 else made[::-1]
