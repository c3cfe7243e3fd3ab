"""A mask predicted from features, and a concatenation that it weighs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from medfuse.builtin.nets.layers import CONVOLUTION, initialize
from medfuse.model.resample import resize


class ConditionalConcat(nn.Module):
    """inputs → [2 [(1 - m) · image, m · up(features)], m], on the image's grid.

    `image` is its index among the inputs; `finest`, `project` and `channels` are of the others, in order. The
    mask has one channel for all, or one for each of the result's.
    """

    def __init__(
        self,
        image: int,
        finest: int,
        project: Sequence[nn.Module | None],
        channels: Sequence[int],
        mask_channels: int,
        dims: int,
    ) -> None:
        super().__init__()
        self.image, self.finest, self.per_channel = image, finest, mask_channels > 1
        self.project = nn.ModuleList(initialize(p) if p else nn.Identity() for p in project)
        # one convolution of the concatenated maps, written as a sum, so that each may have its own grid
        self.mask = nn.ModuleList(CONVOLUTION[dims](c, mask_channels, 1) for c in channels)
        for parameter in self.mask.parameters():
            nn.init.zeros_(parameter)  # neither side is preferred before training says so

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        image = inputs[self.image]
        deep = [x for i, x in enumerate(inputs) if i != self.image]
        features = [project(x) for project, x in zip(self.project, deep)]
        mask = resize(self._mask(features), image.shape[2:])  # (batch, 1 or channels of the result, *spatial)
        upsampled = torch.cat([resize(x, image.shape[2:]) for x in features], dim=1)
        sizes = [image.shape[1], upsampled.shape[1]]
        of_image, of_features = mask.split(sizes, dim=1) if self.per_channel else (mask, mask)
        return [torch.cat([2 * (1 - of_image) * image, 2 * of_features * upsampled], dim=1), mask]

    def _mask(self, features: Sequence[Tensor]) -> Tensor:
        """On the grid of the finest feature map."""
        size = features[self.finest].shape[2:]
        logits = [resize(predict(x), size) for predict, x in zip(self.mask, features)]
        return reduce(torch.add, logits).sigmoid()
