"""What maps say of the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from medfuse import FeatureInfo, FusionBlock

if TYPE_CHECKING:
    from torch import nn


class GlobalPool(FusionBlock):
    """The mean or maximum of each channel over the whole image: y = [mean(x₁), mean(x₂), …], image-level.

    An auxiliary head on it tells which labels are in the patch, and a fusion block spreads it over the grid
    of its other inputs.

        whole: {use: global_pool, inputs: [encoder.layer4]}
        fused: {use: concat, inputs: [decoded, whole]}
    """

    aligns: ClassVar[bool] = False

    pool: Literal["average", "max", "both"] = Field("average", description="how a channel is summarised")

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        channels = sum(x.channels for x in inputs) * (2 if self.pool == "both" else 1)
        return FeatureInfo("global_pool", channels, inputs[0].stride, image_level=True)

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.spp import GlobalPool

        return GlobalPool(self.pool)
