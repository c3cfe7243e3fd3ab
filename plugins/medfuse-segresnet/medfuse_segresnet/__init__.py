"""The encoder of MONAI's SegResNet as a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import floor, log2
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from medfuse import Backbone, FeatureInfo, ImageInfo

if TYPE_CHECKING:
    from torch import nn

GROUPS = 8  # Myronenko 2018

NORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "batch": ("batch", {}),
    "instance": ("instance", {"affine": True}),
    "group": ("group", {"num_groups": GROUPS}),
}


class SegResNet(Backbone):
    """The encoder of MONAI's SegResNetDS: residual blocks with pre-activation (Myronenko 2018).

    Level i has base_channels · 2ⁱ channels. Axes with short voxels are halved first, until they are about as
    long as the longest; from there on all are. Features are layers.0.blocks (finest), layers.1.blocks, …

        backbones:
          encoder: {use: segresnet, blocks: [1, 2, 2, 4], base_channels: 32}
    """

    blocks: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 2, 2, 4), min_length=1, description="residual blocks of each level"
    )
    base_channels: int = Field(32, ge=1, description="channels of the first level")
    norm: Literal["batch", "instance", "group"] = Field(
        "batch", description="normalisation; instance or group (of 8 channel groups) suit small batches"
    )
    anisotropic: bool = Field(
        True, description="whether axes with short voxels are halved first; else all are at each level"
    )

    @model_validator(mode="after")
    def _groups_are_whole(self) -> Self:
        if self.norm == "group" and self.base_channels % GROUPS:
            raise ValueError(
                f"base_channels {self.base_channels} cannot be parted into {GROUPS} groups; "
                f"give a multiple of {GROUPS}, or another norm"
            )
        return self

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        halvings = self._strides(image)[:-1]
        strides = accumulate(
            halvings, lambda a, b: tuple(x * y for x, y in zip(a, b, strict=True)), initial=(1,) * image.dims
        )
        return [
            FeatureInfo(f"layers.{i}.blocks", self.base_channels * 2**i, stride)
            for i, stride in enumerate(strides)
        ]

    def build(self, image: ImageInfo) -> nn.Module:
        from monai.networks.nets.segresnet_ds import SegResEncoder

        name, options = NORMS[self.norm]
        network: nn.Module = SegResEncoder(
            spatial_dims=image.dims,
            init_filters=self.base_channels,
            in_channels=image.channels,
            norm=(name, dict(options)),  # a copy of its own, as MONAI adds to it
            blocks_down=self.blocks,
            anisotropic_scales=tuple(self._strides(image)),
        )
        return network

    def _strides(self, image: ImageInfo) -> list[tuple[int, ...]]:
        """From each level to the next, per axis: 1 or 2; the last level's sets its kernel.

        MONAI's `scales_for_resolution`, without its import, which takes seconds.
        """
        if not self.anisotropic:
            return [(2,) * image.dims] * len(self.blocks)
        longest = max(image.spacing_mm)
        first = [floor(log2(longest / spacing)) for spacing in image.spacing_mm]  # halvings ahead of the rest
        return [tuple(2 if i < n or i >= max(first) else 1 for n in first) for i in range(len(self.blocks))]
