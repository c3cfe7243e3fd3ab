"""Atrous spatial pyramid pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from medfuse import FeatureInfo, FusionBlock

if TYPE_CHECKING:
    from torch import nn


class ASPP(FusionBlock):
    """Atrous spatial pyramid pooling of DeepLabv3 (Chen et al. 2017), in 2-D or 3-D.

    y = act(norm(W [conv₁(x), conv₃(x; rate 1), conv₃(x; rate 2), …, mean(x)])) for x = [x₁, x₂, …]. Branches
    have instance norm and leaky ReLU, the mean has no norm, and the last norm is over all channels together.

        context: {use: aspp, inputs: [encoder.layer4], rates: [1, 2, 4], channels: 64}
    """

    rates: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 2, 4), min_length=1, description="dilation of each branch of kernel 3, in voxels of the map"
    )
    channels: int | None = Field(
        None, ge=1, description="of each branch and of the result; if not given, those of x"
    )

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        return FeatureInfo("aspp", self._channels(inputs), inputs[0].stride)

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets import aspp

        given = sum(x.channels for x in inputs)
        return aspp.ASPP(given, self._channels(inputs), self.rates, inputs[0].dims)

    def _channels(self, inputs: Sequence[FeatureInfo]) -> int:
        return self.channels or sum(x.channels for x in inputs)
