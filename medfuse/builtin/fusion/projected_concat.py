"""Concatenation of maps that are narrowed first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medfuse import FeatureInfo, FusionBlock

if TYPE_CHECKING:
    from torch import nn


class ProjectedConcat(FusionBlock):
    """Each map through its own bottleneck, side by side: y = [act(norm(W₁ x₁)), act(norm(W₂ x₂)), …].

    Every map has the same say, whatever its channels; `concat` with channels mixes the maps instead.

        fused: {use: projected_concat, inputs: [encoder.layer1, encoder.layer4], channels: 16}
    """

    channels: int = Field(ge=1, description="of each map after its convolution, instance norm and leaky ReLU")
    kernel: Literal[1, 3] = Field(1, description="voxels per axis of the convolution")

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        return FeatureInfo("projected_concat", len(inputs) * self.channels, inputs[0].stride)

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.combine import Combined, beside, projections

        return Combined(beside, projections(inputs, self.channels, self.kernel))
