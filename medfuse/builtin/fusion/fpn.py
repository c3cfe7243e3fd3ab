"""The feature pyramid network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from medfuse import FeatureInfo, FusionBlock, ShapeError

if TYPE_CHECKING:
    from torch import nn


class FPN(FusionBlock):
    """Feature pyramid, from the coarsest map up: tᵢ = Wᵢ xᵢ + up(tᵢ₊₁), pᵢ = smooth(tᵢ) (Lin et al. 2017).

    Wᵢ is a 1×1 convolution, `smooth` one with a kernel of 3 on every axis; as in the paper, neither has a
    norm or an activation. Inputs may stand in any order, and strides need not be multiples of each other. The
    result is the finest level; with `levels` 3 the next coarser ones are NAME.1 and NAME.2. What is published
    has a convolution of its own, so ask for no more than is used: a weight without gradient stops data
    parallel training.

        pyramid: {use: fpn, inputs: [encoder.*], channels: 64}
    """

    aligns: ClassVar[bool] = False

    channels: int = Field(64, ge=1, description="channels of every level; 256 in the paper, for 2-D images")
    levels: int = Field(1, ge=1, description="how many levels are published, from the finest on")
    upsample: Literal["nearest", "linear"] = Field(
        "nearest", description="how a level reaches the size of the next finer one"
    )

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        return self._level("fpn", inputs[self._order(inputs)[-1]])

    def side_outputs(self, inputs: Sequence[FeatureInfo]) -> Sequence[FeatureInfo]:
        published = self._order(inputs)[: -self.levels - 1 : -1]
        return [self._level(str(level), inputs[i]) for level, i in enumerate(published)][1:]

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.decoders import FPN

        return FPN(
            order=self._order(inputs),
            channels_in=[x.channels for x in inputs],
            channels=self.channels,
            levels=self.levels,
            dims=inputs[0].dims,
            upsample=self.upsample,
        )

    def _level(self, name: str, x: FeatureInfo) -> FeatureInfo:
        return FeatureInfo(name, self.channels, x.stride, image_level=x.image_level)

    def _order(self, inputs: Sequence[FeatureInfo]) -> list[int]:
        """Indices of the inputs, coarsest first."""
        if len(inputs) < 2:
            raise ShapeError("fpn needs at least two inputs: a coarse map, and a finer one to bring it to")
        if self.levels > len(inputs):
            raise ShapeError(f"fpn makes {len(inputs)} levels of as many inputs; lower `levels` to that")
        return sorted(range(len(inputs)), key=lambda i: inputs[i].coarseness, reverse=True)
