"""The encoder of SwinUNETR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from medfuse import Backbone, FeatureInfo, ImageInfo

if TYPE_CHECKING:
    from torch import nn

Count = Annotated[int, Field(ge=1)]
STAGES = 4  # MONAI's, whose forward pass names each


class SwinUNETR(Backbone):
    """The encoder of MONAI's SwinUNETR: attention in shifted windows (Hatamizadeh et al. 2022).

    Features are pos_drop (stride 2), layers1.0 (4), layers2.0 (8), layers3.0 (16) and layers4.0 (32), with
    channels · 1, 2, 4, 8, 16. A decoder to the finest grid takes `image` as a further input. Needs
    einops: pip install "medfuse[swin]".

        backbones:
          encoder: {use: swin_unetr, channels: 24}
    """

    channels: int = Field(24, ge=1, description="of the first map; a multiple of every number of `heads`")
    depths: tuple[Annotated[int, Field(ge=1, le=100)], ...] = Field(
        (2, 2, 2, 2), min_length=STAGES, max_length=STAGES, description="attention blocks of each stage"
    )
    heads: tuple[Count, ...] = Field(
        (3, 6, 12, 24), min_length=STAGES, max_length=STAGES, description="attention heads of each stage"
    )
    window: int = Field(7, ge=2, description="side of the windows that attention looks at, in voxels")
    v2: bool = Field(False, description="a residual convolution before each stage (He et al. 2023)")

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        names = ["pos_drop", *(f"layers{i}.0" for i in range(1, STAGES + 1))]
        return [
            FeatureInfo(name, self.channels * 2**i, (2 ** (i + 1),) * image.dims)
            for i, name in enumerate(names)
        ]

    def build(self, image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.swin import swin_encoder

        return swin_encoder(
            image.channels,
            image.dims,
            channels=self.channels,
            depths=self.depths,
            heads=self.heads,
            window=self.window,
            v2=self.v2,
        )
