"""Gated fusion of feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medfuse import FeatureInfo, FusionBlock, ShapeError

if TYPE_CHECKING:
    from torch import nn


class Gated(FusionBlock):
    """Gated multimodal unit (Arevalo et al. 2017): y = z · h₁ + (1 - z) · h₂, hᵢ = tanh(Wᵢ xᵢ).

    z = σ(V [x₁, x₂]) sees both maps. From three maps on each has its own gate: y = Σ zᵢ · hᵢ.

        fused: {use: gated, inputs: [decoded, image], channels: 16, per: channel}
    """

    channels: int = Field(16, ge=1, description="of the result")
    per: Literal["channel", "voxel"] = Field(
        "channel", description="one gate for each channel of a voxel, or one for all of them"
    )

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        if len(inputs) < 2:
            raise ShapeError("gated weighs maps against each other; give two or more `inputs`")
        return FeatureInfo("gated", self.channels, inputs[0].stride)

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse_gated.net import GatedMaps

        gates = self.channels if self.per == "channel" else 1
        return GatedMaps([x.channels for x in inputs], self.channels, gates, inputs[0].dims)
