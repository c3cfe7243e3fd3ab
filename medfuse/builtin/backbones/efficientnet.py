"""EfficientNets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medfuse import Backbone, FeatureInfo, ImageInfo

if TYPE_CHECKING:
    from torch import nn

# Tan & Le 2019: factor of the width, by size
WIDTHS = {"b0": 1.0, "b1": 1.0, "b2": 1.1, "b3": 1.2, "b4": 1.4, "b5": 1.6, "b6": 1.8, "b7": 2.0}
LAST_OF_STRIDE = {0: (16, 2), 1: (24, 4), 2: (40, 8), 4: (112, 16), 6: (320, 32)}  # stage: channels, stride
DIVISOR = 8  # of every number of channels


class EfficientNet(Backbone):
    """EfficientNet, 2-D or 3-D, MONAI's (Tan & Le 2019), without its head.

    Features are _blocks.0 (stride 2), _blocks.1 (4), _blocks.2 (8), _blocks.4 (16) and _blocks.6 (32).

        backbones:
          encoder: {use: efficientnet, size: b0}
    """

    size: Literal["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"] = Field("b0", description="width and depth")
    norm: Literal["batch", "instance", "group"] = Field(
        "batch", description="normalisation; instance or group (of 8 channels each) suit small batches"
    )

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        return [
            FeatureInfo(f"_blocks.{stage}", _scaled(channels, WIDTHS[self.size]), (stride,) * image.dims)
            for stage, (channels, stride) in LAST_OF_STRIDE.items()
        ]

    def build(self, image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.efficientnet import efficientnet

        return efficientnet(self.size, image.channels, image.dims, norm=self.norm)


def _scaled(channels: int, width: float) -> int:
    """Channels of a wider network: the nearest multiple of 8 that is not more than a tenth less."""
    wanted = channels * width
    made = max(DIVISOR, int(wanted + DIVISOR / 2) // DIVISOR * DIVISOR)
    return made + DIVISOR if made < 0.9 * wanted else made
