"""A network that was trained on pictures, inside one that takes medfuse's images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medfuse.core.errors import ShapeError
from medfuse.model.pictures import Normalization

POOLED = "pooled"
"""The layer that makes what a network says of the whole image."""


class Pictured(nn.Module):
    """x (batch, 1 or channels, *spatial) in [0, 1] → what `network` makes of it as it was trained to see it.

    What it says of the whole image, (batch, channels), is also the output of the layer `pooled`, for taps.
    Raises ShapeError where mean and std are of another number of channels.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, network: nn.Module, channels: int, normalization: Normalization | None) -> None:
        super().__init__()
        for numbers in normalization or ():
            if len(numbers) not in (1, channels):
                raise ShapeError(
                    f"mean and std have {len(numbers)} numbers, and the network {channels} channels"
                )
        self.network = network
        self.pooled = nn.Identity()
        self._channels = channels
        mean, std = normalization or (None, None)
        self.register_buffer("mean", _per_channel(mean))
        self.register_buffer("std", _per_channel(std))

    def seen(self, x: Tensor) -> Tensor:
        """x as the network was trained to see it; a single channel as all of its own."""
        if x.shape[1] != self._channels:
            x = x.expand(-1, self._channels, *(-1,) * (x.ndim - 2))
        return x if self.mean is None or self.std is None else (x - self.mean) / self.std

    def forward(self, x: Tensor) -> Any:
        made = self.network(self.seen(x))
        return self.pooled(made) if isinstance(made, Tensor) and made.ndim == 2 else made


def _per_channel(numbers: Sequence[float] | None) -> Tensor | None:
    return None if numbers is None else torch.tensor(numbers, dtype=torch.float32).view(1, -1, 1, 1)
