"""Densely connected networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medfuse import Backbone, FeatureInfo, ImageInfo

if TYPE_CHECKING:
    from torch import nn

BLOCKS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
STEM, GROWTH = 64, 32


class DenseNet(Backbone):
    """Densely connected network, 2-D or 3-D, MONAI's (Huang et al. 2017), without its classifier.

    Features are features.relu0 (stride 2) and features.denseblock1 (4) to features.denseblock4 (32).

        backbones:
          encoder: {use: densenet, depth: 121}
    """

    depth: Literal[121, 169, 201] = Field(121, description="layers with weights")
    norm: Literal["batch", "instance", "group"] = Field(
        "batch", description="normalisation; instance or group suit small batches"
    )

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        found = [FeatureInfo("features.relu0", STEM, (2,) * image.dims)]
        channels = STEM
        for index, layers in enumerate(BLOCKS[self.depth], start=1):
            channels += layers * GROWTH
            stride = (2 ** (index + 1),) * image.dims
            found.append(FeatureInfo(f"features.denseblock{index}", channels, stride))
            channels //= 2  # by the transition after it
        return found

    def build(self, image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.densenet import densenet

        return densenet(
            image.channels, image.dims, stem=STEM, growth=GROWTH, blocks=BLOCKS[self.depth], norm=self.norm
        )
