"""One prediction per map, added up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from medfuse import FeatureInfo, FusionBlock

if TYPE_CHECKING:
    from torch import nn


class SumOfLogits(FusionBlock):
    """Scores of every tap, upsampled to the finest grid and summed: y = Σᵢ up(Wᵢ xᵢ + bᵢ) (Long et al. 2015).

    The Wᵢ are 1×1 convolutions. A fusion block does not know the classes, and the head puts a 1×1 convolution
    V on whatever it is given. All of this is linear, so V y = Σᵢ up(V Wᵢ xᵢ) + constant: still one linear
    prediction per tap, and their sum, as in the paper's FCN; any such sum, where `channels` is at least
    the number of classes. Scores are upsampled linearly and at once, not in the paper's steps of 2.

        scores: {use: sum_of_logits, inputs: [encoder.*], channels: 8}
    """

    aligns: ClassVar[bool] = False

    channels: int = Field(16, ge=1, description="score maps per tap: at least the number of classes")

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        finest = tuple(min(strides) for strides in zip(*(x.stride for x in inputs)))
        return FeatureInfo("sum_of_logits", self.channels, finest)

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.decoders import SumOfLogits

        return SumOfLogits([x.channels for x in inputs], self.channels, inputs[0].dims)
