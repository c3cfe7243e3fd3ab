"""Residual networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medfuse import Backbone, FeatureInfo, ImageInfo, ShapeError

if TYPE_CHECKING:
    from torch import nn

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
PLANES = (64, 128, 256, 512)


class ResNet(Backbone):
    """Residual network, 2-D or 3-D, MONAI's (He et al. 2016; Hara et al. 2018), without its classifier.

    Features are act (the stem), layer1, layer2, layer3 and layer4.

        backbones:
          encoder: {use: resnet, depth: 18, conv1_stride: [2, 2, 1]}
    """

    depth: Literal[10, 18, 34, 50, 101] = Field(
        18, description="layers with weights; from 50 on, bottlenecks"
    )
    conv1_stride: int | tuple[int, ...] = Field(2, description="of the stem, one number or one per axis, ≥ 1")
    max_pool: bool = Field(True, description="whether the stem's output is halved by pooling before layer1")
    norm: Literal["batch", "instance", "group"] = Field(
        "batch", description="normalisation; instance or group suit small batches"
    )

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        stride = self._conv1_stride(image)
        found = [FeatureInfo("act", PLANES[0], stride)]
        wider = 4 if self.depth >= 50 else 1
        for index, planes in enumerate(PLANES):
            factor = 2 if index or self.max_pool else 1
            stride = tuple(s * factor for s in stride)
            found.append(FeatureInfo(f"layer{index + 1}", planes * wider, stride))
        return found

    def build(self, image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.resnet import resnet

        return resnet(
            block="bottleneck" if self.depth >= 50 else "basic",
            blocks=BLOCKS[self.depth],
            planes=PLANES,
            channels=image.channels,
            conv1_stride=self._conv1_stride(image),
            max_pool=self.max_pool,
            norm=self.norm,
        )

    def _conv1_stride(self, image: ImageInfo) -> tuple[int, ...]:
        given = self.conv1_stride
        stride = (given,) * image.dims if isinstance(given, int) else given
        if len(stride) != image.dims or min(stride) < 1:
            raise ShapeError(
                f"conv1_stride {given} does not fit a {image.dims}-D patch; give {image.dims} numbers"
            )
        return stride
