"""The encoder of MedNeXt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medfuse import Backbone, FeatureInfo, ImageInfo

if TYPE_CHECKING:
    from torch import nn

# Roy et al. 2023: blocks and expansion of each stage, the bottleneck last
SIZES = {
    "S": ((2, 2, 2, 2, 2), (2, 2, 2, 2, 2)),
    "B": ((2, 2, 2, 2, 2), (2, 3, 4, 4, 4)),
    "M": ((3, 4, 4, 4, 4), (2, 3, 4, 4, 4)),
    "L": ((3, 4, 8, 8, 8), (3, 4, 8, 8, 8)),
}


class MedNeXt(Backbone):
    """The encoder of MONAI's MedNeXt: wide depthwise kernels in inverted bottlenecks (Roy et al. 2023).

    Features are enc_stages.0 (stride 1), enc_stages.1 (2), enc_stages.2, enc_stages.3 and bottleneck (16),
    with base_channels · 1, 2, 4, 8, 16.

        backbones:
          encoder: {use: mednext, size: S, kernel: 3}
    """

    size: Literal["S", "B", "M", "L"] = Field("S", description="blocks and expansion of each stage")
    kernel: Literal[3, 5, 7] = Field(3, description="voxels of the depthwise kernels on each axis")
    base_channels: int = Field(32, ge=1, description="channels of the first stage")
    global_response_norm: bool = Field(
        False, description="each channel of a block weighed by its share of the whole, as in MedNeXt v2"
    )

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        stages = len(SIZES[self.size][0])
        names = [*(f"enc_stages.{i}" for i in range(stages - 1)), "bottleneck"]
        return [
            FeatureInfo(name, self.base_channels * 2**i, (2**i,) * image.dims) for i, name in enumerate(names)
        ]

    def build(self, image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.mednext import mednext_encoder

        blocks, expansions = SIZES[self.size]
        return mednext_encoder(
            image.channels,
            image.dims,
            channels=self.base_channels,
            blocks=blocks,
            expansions=expansions,
            kernel=self.kernel,
            global_response_norm=self.global_response_norm,
        )
