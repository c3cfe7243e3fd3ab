"""Concatenation along the channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from medfuse import FeatureInfo, FusionBlock

if TYPE_CHECKING:
    from torch import nn


class Concat(FusionBlock):
    """All inputs side by side: y = [x₁, x₂, …], or act(norm(W [x₁, x₂, …])) where `channels` is given.

    What is image-level comes after the norm, which would subtract it: act(norm(W [maps]) + V [levels]).

    fused: {use: concat, inputs: [encoder.layer1, encoder.layer4], channels: 64}
    """

    channels: int | None = Field(
        None, ge=1, description="project to this many by a 1×1 convolution, instance norm and leaky ReLU"
    )

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        return FeatureInfo("concat", self.channels or sum(x.channels for x in inputs), inputs[0].stride)

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets import concat

        given, dims = [x.channels for x in inputs], inputs[0].dims
        if self.channels is None:
            return concat.Concat()
        levels = [i for i, x in enumerate(inputs) if x.image_level]
        if 0 < len(levels) < len(inputs):
            return concat.ConcatWithLevels(given, self.channels, levels, dims)
        only_levels = len(levels) == len(inputs)
        return concat.Concat(concat.projection(sum(given), self.channels, dims, image_level=only_levels))
