"""Attention over channels, over voxels, of a skip under a gating signal, and across maps."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfuse.builtin.nets.layers import CONVOLUTION

AVERAGE = {2: functional.avg_pool2d, 3: functional.avg_pool3d}
OPEN = 3.0
"""Bias of a gate that lets nearly all through before it learns, σ(3) = 0.95, as Oktay et al. coded it."""


class SqueezeExcite(nn.Module):
    """The maps side by side, each channel scaled by what all channels' means say (Hu et al. 2018)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        last = nn.Linear(hidden, channels)
        nn.init.constant_(last.bias, OPEN)
        self.excite = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), last, nn.Sigmoid())

    def forward(self, *maps: Tensor) -> Tensor:
        x = torch.cat(maps, dim=1)
        scale: Tensor = self.excite(x.flatten(2).mean(dim=2))  # (batch, channels)
        return x * scale.reshape(*scale.shape, *(1,) * (x.ndim - 2))


class SpatialAttention(nn.Module):
    """The maps side by side, each voxel scaled by what its neighbourhood says (CBAM, Woo et al. 2018)."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.conv = CONVOLUTION[dims](2, 1, 7, padding=3)
        nn.init.constant_(self.conv.bias, OPEN)

    def forward(self, *maps: Tensor) -> Tensor:
        x = torch.cat(maps, dim=1)
        seen = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        scale: Tensor = self.conv(seen).sigmoid()  # (batch, 1, *spatial)
        return x * scale


class AttentionGate(nn.Module):
    """The first map, each voxel scaled by what it and the other maps say (Oktay et al. 2018)."""

    def __init__(self, channels: Sequence[int], hidden: int, dims: int) -> None:
        super().__init__()
        skip, *signals = channels
        convolution = CONVOLUTION[dims]
        self.skip = convolution(skip, hidden, 1, bias=False)
        self.signal = convolution(sum(signals), hidden, 1)
        self.score = convolution(hidden, 1, 1)
        nn.init.constant_(self.score.bias, OPEN)

    def forward(self, skip: Tensor, *signals: Tensor) -> Tensor:
        return skip * self.coefficients(skip, *signals)

    def coefficients(self, skip: Tensor, *signals: Tensor) -> Tensor:
        """α, (batch, 1, *spatial)."""
        both = self.skip(skip) + self.signal(torch.cat(signals, dim=1))
        alpha: Tensor = self.score(both.relu()).sigmoid()
        return alpha


class CrossAttention(nn.Module):
    """The first map, to each voxel of which is added what it asks of the others (Vaswani et al. 2017)."""

    def __init__(self, channels: Sequence[int], heads: int, tokens: int) -> None:
        super().__init__()
        first, *others = channels
        self.heads, self.tokens = heads, tokens
        self.query_norm = nn.LayerNorm(first)
        # embedded before the norm, which would leave nothing of a map of one channel
        self.embed, self.norm = nn.Linear(sum(others), first), nn.LayerNorm(first)
        self.query, self.key, self.value = (nn.Linear(first, first, bias=False) for _ in range(3))
        self.out = nn.Linear(first, first)

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        asking = self.query_norm(_tokens(x))
        asked = self.norm(self.embed(_tokens(pooled(torch.cat(others, dim=1), self.tokens))))
        query, key, value = map(self._heads, (self.query(asking), self.key(asked), self.value(asked)))
        answers = functional.scaled_dot_product_attention(query, key, value)
        told = self.out(answers.transpose(1, 2).flatten(2))  # (batch, voxels, channels)
        return x + told.transpose(1, 2).reshape(x.shape)

    def _heads(self, tokens: Tensor) -> Tensor:
        """(batch, voxels, channels) → (batch, heads, voxels, channels / heads)."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


def _tokens(x: Tensor) -> Tensor:
    """(batch, channels, *spatial) → (batch, voxels, channels)."""
    return x.flatten(2).transpose(1, 2)


def pooled(x: Tensor, most: int) -> Tensor:
    """Means over blocks of voxels, no larger than it takes to leave at most `most` of them."""
    size = x.shape[2:]
    block = [1] * len(size)
    while prod(left := [-(-n // b) for n, b in zip(size, block)]) > most:
        block[left.index(max(left))] += 1
    return AVERAGE[len(size)](x, block, ceil_mode=True) if max(block) > 1 else x
