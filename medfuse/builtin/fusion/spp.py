"""Spatial pyramid pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from medfuse import FeatureInfo, FusionBlock

if TYPE_CHECKING:
    from torch import nn


class SPP(FusionBlock):
    """Spatial pyramid pooling (He et al. 2014; Zhao et al. 2017): y = [x, up(act(W₁ pool₁(x))), …].

    poolₙ makes n regions per axis, whatever the size of x = [x₁, x₂, …]; up is linear. Pooled maps have no
    norm. With 1 bin one is the same at every voxel, and a 1×1 convolution with instance norm (`concat` with
    channels) would subtract it again; a decoder, or attention of kind squeeze_excite, makes use of it.

        context: {use: spp, inputs: [encoder.layer4], bins: [1, 2, 4], channels: 64}
    """

    bins: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 2, 4), min_length=1, description="regions per axis of each pooled map; at most its voxels"
    )
    pool: Literal["average", "max", "both"] = Field("average", description="how a region is summarised")
    channels: int | None = Field(
        None,
        ge=1,
        description="of each pooled map after its 1×1 convolution; if not given, those of x divided by how "
        "many `bins` there are",
    )
    keep_input: bool = Field(True, description="whether x itself is part of the result")

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        kept = _total(inputs) if self.keep_input else 0
        return FeatureInfo("spp", kept + len(self.bins) * self._channels(inputs), inputs[0].stride)

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets import spp

        return spp.SPP(
            _total(inputs),
            self._channels(inputs),
            self.bins,
            self.pool,
            inputs[0].dims,
            keep_input=self.keep_input,
        )

    def _channels(self, inputs: Sequence[FeatureInfo]) -> int:
        return self.channels or max(1, _total(inputs) // len(self.bins))


def _total(inputs: Sequence[FeatureInfo]) -> int:
    return sum(x.channels for x in inputs)
