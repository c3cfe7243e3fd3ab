"""A weighted sum whose weights are learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from medfuse.builtin.fusion.elementwise import Elementwise

if TYPE_CHECKING:
    from medfuse.builtin.nets.combine import Combination


class Weighted(Elementwise):
    """A learned weighted sum: y = Σ wᵢ xᵢ, softmax or unbounded fusion of BiFPN (Tan et al. 2020).

    It begins as the mean, and a single map is left as it is.

        fused: {use: weighted, inputs: [decoded, decoded.1, decoded.2], channels: 8, per: channel}
    """

    name: ClassVar[str] = "weighted"

    per: Literal["input", "channel"] = Field(
        "input", description="one weight for each map, or one for each channel of each map"
    )
    normalize: Literal["softmax", "none"] = Field(
        "softmax",
        description="softmax keeps weights positive with sum 1; none lets them be anything, 1/n at first",
    )

    def _combination(self, maps: int, channels: int) -> Combination:
        from medfuse.builtin.nets.combine import WeightedSum

        return WeightedSum(maps, channels if self.per == "channel" else 1, self.normalize)
