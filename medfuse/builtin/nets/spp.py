"""Spatial pyramid pooling: a map beside its own summaries over coarser and coarser regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfuse.builtin.nets.layers import CONVOLUTION, SLOPE, initialize
from medfuse.model.resample import resize

Pool = Literal["average", "max", "both"]

POOLS: dict[tuple[str, int], Any] = {
    ("average", 2): functional.adaptive_avg_pool2d,
    ("average", 3): functional.adaptive_avg_pool3d,
    ("max", 2): functional.adaptive_max_pool2d,
    ("max", 3): functional.adaptive_max_pool3d,
}


def pool_kinds(pool: Pool) -> tuple[str, ...]:
    return ("average", "max") if pool == "both" else (pool,)


class GlobalPool(nn.Module):
    """Maps of any sizes → (batch, channels of all, 1, …): each kind of pooling of each map, side by side."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.kinds = pool_kinds(pool)

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat([self._over_all(x, kind) for kind in self.kinds for x in maps], dim=1)

    def _over_all(self, x: Tensor, kind: str) -> Tensor:
        axes = tuple(range(2, x.ndim))
        return x.mean(axes, keepdim=True) if kind == "average" else x.amax(axes, keepdim=True)


class SPP(nn.Module):
    """The maps side by side, and beside them what each number of bins makes of them."""

    def __init__(
        self, channels_in: int, channels: int, bins: Sequence[int], pool: Pool, dims: int, *, keep_input: bool
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Pooled(channels_in, channels, n, pool, dims) for n in bins)
        self.keep_input = keep_input

    def forward(self, *maps: Tensor) -> Tensor:
        x = torch.cat(maps, dim=1)
        kept = [x] if self.keep_input else []
        return torch.cat([*kept, *(branch(x) for branch in self.branches)], dim=1)


class Pooled(nn.Module):
    """A map pooled to `bins` regions per axis, projected, and brought back to its size.

    Without a norm: the one voxel of a single region has no spread to divide by, and the level of a pooled
    map is what it has to say.
    """

    def __init__(self, channels_in: int, channels: int, bins: int, pool: Pool, dims: int) -> None:
        super().__init__()
        self.bins = bins
        self.kinds = pool_kinds(pool)
        self.conv = initialize(CONVOLUTION[dims](channels_in * len(self.kinds), channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        summary = functional.leaky_relu(self.conv(self.pool(x)), SLOPE)
        return resize(summary, size)

    def pool(self, x: Tensor) -> Tensor:
        """One value per region; no more regions along an axis than it has voxels."""
        regions = [min(self.bins, n) for n in x.shape[2:]]
        return torch.cat([POOLS[kind, x.ndim - 2](x, regions) for kind in self.kinds], dim=1)
