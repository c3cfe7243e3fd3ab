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

    fused: {use: concat, inputs: [encoder.layer1, encoder.layer4], channels: 64}
    """

    channels: int | None = Field(
        None, ge=1, description="project to this many by a 1×1 convolution, instance norm and leaky ReLU"
    )

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        return FeatureInfo("concat", self.channels or sum(x.channels for x in inputs), inputs[0].stride)

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets import concat

        given = sum(x.channels for x in inputs)
        project = concat.projection(given, self.channels, inputs[0].dims) if self.channels else None
        return concat.Concat(project)
