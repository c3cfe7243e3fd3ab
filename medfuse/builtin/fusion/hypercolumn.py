"""Hypercolumns: for each voxel, what every layer says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from medfuse import FeatureInfo, FusionBlock

if TYPE_CHECKING:
    from torch import nn


class Hypercolumn(FusionBlock):
    """All maps upsampled to the finest and stacked: y = [up(W₁ x₁), up(W₂ x₂), …] (Hariharan et al. 2015).

    The Wᵢ are 1×1 convolutions without norm or activation, so that projecting first and upsampling then gives
    what the reverse would, for a fraction of the time and memory. `up` is linear.

        columns: {use: hypercolumn, inputs: [encoder.*], channels: 16}
    """

    aligns: ClassVar[bool] = False

    channels: int | None = Field(
        32, ge=1, description="project each map to this many; null keeps all of its channels"
    )

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        finest = tuple(min(strides) for strides in zip(*(x.stride for x in inputs)))
        return FeatureInfo("hypercolumn", sum(self.channels or x.channels for x in inputs), finest)

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.decoders import Hypercolumn

        return Hypercolumn([x.channels for x in inputs], self.channels, inputs[0].dims)
