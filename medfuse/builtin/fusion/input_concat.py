"""Features at the size of the image, beside the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from medfuse import FeatureInfo, FusionBlock, ShapeError

if TYPE_CHECKING:
    from torch import nn


class InputConcat(FusionBlock):
    """Maps brought to the image's size and concatenated with it: y = [up(x₁), …, image].

    `transposed` and `pixelshuffle` (Shi et al. 2016) are learned, in steps of small factors: a stride of 16
    takes four steps of 2, each with instance norm and leaky ReLU. Odd sizes are met exactly.

        fused: {use: input_concat, inputs: [decoded, image], upsample: transposed, channels: 32}
    """

    aligns: ClassVar[bool] = False

    upsample: Literal["linear", "nearest", "transposed", "pixelshuffle"] = Field(
        "linear", description="how maps are brought to the image's size"
    )
    channels: int | None = Field(
        None,
        ge=1,
        description="project each map to this many by a 1×1 convolution, instance norm and leaky ReLU "
        "before it is upsampled",
    )

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        image = self._image(inputs)
        maps = [x for x in inputs if x is not image]
        channels = image.channels + sum(self.channels or x.channels for x in maps)
        return FeatureInfo("input_concat", channels, image.stride)

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.concat import ConcatWithImage

        image = self._image(inputs)
        return ConcatWithImage(
            inputs.index(image), [None if x is image else self._upsampler(x) for x in inputs]
        )

    def _image(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        image = next((x for x in inputs if x.name == "image"), None)
        if image is None or len(inputs) < 2:
            raise ShapeError("input_concat takes `image` and at least one other map; add what is missing")
        return image

    def _upsampler(self, x: FeatureInfo) -> nn.Module:
        from medfuse.builtin.nets import concat

        project = None
        if self.channels:
            project = concat.projection(x.channels, self.channels, x.dims, image_level=x.image_level)
        if x.image_level:
            return concat.Interpolate(project, "nearest")
        if self.upsample == "linear" or self.upsample == "nearest":
            return concat.Interpolate(project, self.upsample)
        return concat.Learned(project, self.channels or x.channels, x.stride, self.upsample)
