"""The torch module of gated fusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}  # by number of spatial axes


class GatedMaps(nn.Module):
    """Maps (batch, given[i], *spatial) → (batch, channels, *spatial); `gates` is `channels`, or 1."""

    def __init__(self, given: Sequence[int], channels: int, gates: int, dims: int) -> None:
        super().__init__()
        convolution = CONVOLUTION[dims]
        self.proposals = nn.ModuleList(convolution(n, channels, 1) for n in given)
        self.gate = convolution(sum(given), gates * (len(given) if len(given) > 2 else 1), 1)
        self.gates = gates

    def forward(self, *maps: Tensor) -> Tensor:
        proposed = [torch.tanh(propose(x)) for propose, x in zip(self.proposals, maps, strict=True)]
        z = torch.sigmoid(self.gate(torch.cat(maps, dim=1))).split(self.gates, dim=1)
        weights = z if len(maps) > 2 else (z[0], 1 - z[0])
        return torch.stack([w * h for w, h in zip(weights, proposed, strict=True)]).sum(0)
