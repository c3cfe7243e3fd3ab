"""A 2-D network that sees every slice of a volume together with its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medfuse.builtin.nets.within import Within, place
from medfuse.core.features import FeatureInfo


class Slices(Within):
    """x (batch, channels, x, y, z) → {LAYER: Tensor (batch, c, x', y', z)}, also the outputs of these layers.

    Slices go through `network` as one batch of (batch · z, channels · (2 · neighbours + 1), x, y); at the
    ends of the volume its last slice stands in for those beyond.
    """

    def __init__(self, network: nn.Module, features: Sequence[FeatureInfo], neighbours: int) -> None:
        super().__init__(network, features)
        self._neighbours = neighbours
        for name in self._features:
            place(self, name)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        batch, _, *size, depth = x.shape
        k = self._neighbours
        slices = x.movedim(-1, 1).contiguous()  # (batch, z, channels, x, y)
        longer = torch.cat([slices[:, :1]] * k + [slices] + [slices[:, -1:]] * k, dim=1)
        stacks = torch.stack([longer.narrow(1, first, depth) for first in range(2 * k + 1)], dim=3)
        flat = stacks.flatten(2, 3).flatten(0, 1)
        made = {}
        for name, flat_maps in self._made(flat).items():
            maps = self._features[name].as_map(flat_maps, size).unflatten(0, (batch, depth))
            made[name] = self.get_submodule(name)(maps.movedim(1, -1).contiguous())
        return made
