"""A weighted sum whose weights are learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medfuse import FeatureInfo, FusionBlock
from medfuse.builtin.fusion.elementwise import equal_channels

if TYPE_CHECKING:
    from torch import nn


class Weighted(FusionBlock):
    """A learned weighted sum: y = Σ wᵢ xᵢ, softmax or unbounded fusion of BiFPN (Tan et al. 2020).

    It begins as the mean, and a single map is left as it is.

        fused: {use: weighted, inputs: [decoded, decoded.1, decoded.2], channels: 8, per: channel}
    """

    per: Literal["input", "channel"] = Field(
        "input", description="one weight for each map, or one for each channel of each map"
    )
    normalize: Literal["softmax", "none"] = Field(
        "softmax",
        description="softmax keeps weights positive with sum 1; none lets them be anything, 1/n at first",
    )
    channels: int | None = Field(
        None,
        ge=1,
        description="project each map to this many by its own 1×1 convolution, instance norm and leaky ReLU; "
        "needed where maps differ in channels",
    )

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        return FeatureInfo("weighted", self._channels(inputs), inputs[0].stride)

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.combine import Combined, WeightedSum, projections

        given = [x.channels for x in inputs]
        weights = self._channels(inputs) if self.per == "channel" else 1
        return Combined(
            WeightedSum(len(inputs), weights, self.normalize),
            projections(given, self.channels, inputs[0].dims),
        )

    def _channels(self, inputs: Sequence[FeatureInfo]) -> int:
        return self.channels or equal_channels("weighted", inputs)
