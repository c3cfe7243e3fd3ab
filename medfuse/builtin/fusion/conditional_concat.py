"""A mask that decides, place by place, between the image and the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from medfuse import FeatureInfo, FusionBlock, ShapeError

if TYPE_CHECKING:
    from torch import nn


class ConditionalConcat(FusionBlock):
    """A predicted mask weighs the image against the features: y = 2 [(1 - m) · image, m · up(x₁), …].

    m = up(σ(Σᵢ Wᵢ xᵢ + bᵢ)), in (0, 1): 1×1 convolutions make it on the grid of the finest xᵢ, linear
    interpolation brings it to the image's. It begins as ½ everywhere, and y as the plain concatenation. The
    image is the input named `image`, else the finest (of several, the first). The mask is NODE.mask, for
    heads and other nodes.

        fused: {use: conditional_concat, inputs: [image, decoded], mask: per_voxel}
    """

    aligns: ClassVar[bool] = False

    mask: Literal["per_voxel", "per_channel"] = Field(
        "per_voxel", description="one weight per voxel, or one per voxel and channel of the result"
    )
    channels: int | None = Field(
        None,
        ge=1,
        description="first project each map but the image to this many, by a 1×1 convolution, instance norm "
        "and leaky ReLU",
    )

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        image = inputs[self._image(inputs)]
        return FeatureInfo("conditional_concat", image.channels + sum(self._widths(inputs)), image.stride)

    def side_outputs(self, inputs: Sequence[FeatureInfo]) -> Sequence[FeatureInfo]:
        fused = self.plan(inputs)
        return [FeatureInfo("mask", 1 if self.mask == "per_voxel" else fused.channels, fused.stride)]

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.concat import projection
        from medfuse.builtin.nets.conditional import ConditionalConcat

        deep = self._deep(inputs)
        dims = inputs[0].dims
        return ConditionalConcat(
            image=self._image(inputs),
            finest=min(range(len(deep)), key=lambda i: deep[i].coarseness),
            project=[
                projection(x.channels, self.channels, dims, image_level=x.image_level)
                if self.channels
                else None
                for x in deep
            ],
            channels=self._widths(inputs),
            mask_channels=self.side_outputs(inputs)[0].channels,
            dims=dims,
        )

    def _image(self, inputs: Sequence[FeatureInfo]) -> int:
        if len(inputs) < 2:
            raise ShapeError(
                "conditional_concat needs `image` (or another fine map) and at least one feature map; "
                "add what is missing"
            )
        names = [x.name for x in inputs]
        if "image" in names:
            return names.index("image")
        return min(range(len(inputs)), key=lambda i: inputs[i].coarseness)

    def _deep(self, inputs: Sequence[FeatureInfo]) -> list[FeatureInfo]:
        image = self._image(inputs)
        return [x for i, x in enumerate(inputs) if i != image]

    def _widths(self, inputs: Sequence[FeatureInfo]) -> list[int]:
        return [self.channels or x.channels for x in self._deep(inputs)]
