"""Ways from several scales back to the finest: feature pyramid, UNet++, hypercolumns, summed scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn

from medfuse.builtin.nets.layers import CONVOLUTION, conv_stage, initialize, transposed
from medfuse.model.resample import fit, resize


class FPN(nn.Module):
    """Maps in any order → the finest level, or as many as `levels`, finest first.

    `order` lists the inputs coarsest first.
    """

    def __init__(
        self,
        order: Sequence[int],
        channels_in: Sequence[int],
        channels: int,
        levels: int,
        dims: int,
        upsample: Literal["nearest", "linear"],
    ) -> None:
        super().__init__()
        self.order, self.upsample = tuple(order), upsample
        convolution = CONVOLUTION[dims]
        self.lateral = nn.ModuleList(convolution(channels_in[i], channels, 1) for i in order)
        self.smooth = nn.ModuleList(convolution(channels, channels, 3, padding=1) for _ in range(levels))
        initialize(self)

    def forward(self, *inputs: Tensor) -> Tensor | list[Tensor]:
        merged: list[Tensor] = []
        for index, lateral in zip(self.order, self.lateral):
            x = lateral(inputs[index])
            merged.append(x + resize(merged[-1], x.shape[2:], self.upsample) if merged else x)
        made = [smooth(x) for smooth, x in zip(self.smooth, reversed(merged))]
        return made[0] if len(made) == 1 else made


class UNetPlusPlus(nn.Module):
    """Maps in any order → row 0 without its input, last column first, or the last column alone.

    `order` lists the inputs finest first, and so do their `channels`; step i goes from row i + 1 to row i,
    whose nodes make widths[i] channels.
    """

    def __init__(
        self,
        order: Sequence[int],
        channels: Sequence[int],
        widths: Sequence[int],
        ratios: Sequence[Sequence[int]],
        kernels: Sequence[Sequence[int]],
        convs: int,
    ) -> None:
        super().__init__()
        self.order = tuple(order)
        rows = len(channels)
        self.nodes = tuple((i, j) for j in range(1, rows) for i in range(rows - j))  # as they are computed
        self.upsample = nn.ModuleList(
            transposed(channels[i + 1] if j == 1 else widths[i + 1], widths[i], ratios[i])
            for i, j in self.nodes
        )
        self.stages = nn.ModuleList(
            conv_stage(channels[i] + j * widths[i], widths[i], kernels[i], (1,) * len(kernels[i]), convs)
            for i, j in self.nodes
        )
        initialize(self)

    def forward(self, *inputs: Tensor) -> Tensor | list[Tensor]:
        rows = [[inputs[index]] for index in self.order]
        for (i, j), upsample, stage in zip(self.nodes, self.upsample, self.stages):
            before = rows[i]  # X(i, 0) … X(i, j - 1)
            below = fit(upsample(rows[i + 1][j - 1]), before[0].shape[2:])
            before.append(stage(torch.cat([below, *before], dim=1)))
        made = rows[0][:0:-1]
        return made[0] if len(made) == 1 else made


class Hypercolumn(nn.Module):
    """Each map projected on its own grid (as it is where `channels` is None), upsampled, and stacked."""

    def __init__(self, channels_in: Sequence[int], channels: int | None, dims: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(
            CONVOLUTION[dims](c, channels, 1) if channels else nn.Identity() for c in channels_in
        )
        initialize(self)

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat([*_upsampled([project(x) for project, x in zip(self.project, inputs)])], dim=1)


class SumOfLogits(nn.Module):
    """The sum of each map's scores, upsampled; then the scores on their own grids, in `order`."""

    def __init__(self, channels_in: Sequence[int], channels: int, dims: int, order: Sequence[int]) -> None:
        super().__init__()
        self.order = tuple(order)
        self.score = nn.ModuleList(CONVOLUTION[dims](c, channels, 1) for c in channels_in)
        initialize(self)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        scores = [score(x) for score, x in zip(self.score, inputs)]
        return [reduce(torch.add, _upsampled(scores)), *(scores[index] for index in self.order)]


def _upsampled(maps: Sequence[Tensor]) -> Iterator[Tensor]:
    """Every map, linearly, on the finest size on each axis."""
    size = [max(sizes) for sizes in zip(*(x.shape[2:] for x in maps))]
    return (resize(x, size) for x in maps)
