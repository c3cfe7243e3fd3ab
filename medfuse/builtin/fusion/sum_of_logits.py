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
    The scores of each tap are NAME.1, NAME.2, …, finest first. Where the head stands on NAME, an auxiliary
    head on one of them is the same V, with no weights of its own: the predictions that are summed carry the
    losses.

        scores: {use: sum_of_logits, inputs: [encoder.*], channels: 8}
    """

    aligns: ClassVar[bool] = False
    adds_up: ClassVar[bool] = True

    channels: int = Field(16, ge=1, description="score maps per tap: at least the number of classes")

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        finest = tuple(min(strides) for strides in zip(*(x.stride for x in inputs)))
        return FeatureInfo("sum_of_logits", self.channels, finest)

    def side_outputs(self, inputs: Sequence[FeatureInfo]) -> Sequence[FeatureInfo]:
        levels = [inputs[index] for index in _finest_first(inputs)]
        return [
            FeatureInfo(str(number), self.channels, x.stride, image_level=x.image_level)
            for number, x in enumerate(levels, 1)
        ]

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.decoders import SumOfLogits

        order = _finest_first(inputs)
        return SumOfLogits([x.channels for x in inputs], self.channels, inputs[0].dims, order)


def _finest_first(inputs: Sequence[FeatureInfo]) -> list[int]:
    return sorted(range(len(inputs)), key=lambda index: inputs[index].coarseness)
