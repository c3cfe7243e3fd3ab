"""The encoder of the plain U-Net, its shape planned from patch size and spacing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from medfuse import Backbone, FeatureInfo, ImageInfo, ShapeError
from medfuse.core.text import by
from medfuse.core.topology import (
    Activation,
    Axes,
    for_each,
    odd_kernels,
    per_axis,
    plan_kernels,
    plan_strides,
)

if TYPE_CHECKING:
    from torch import nn

Count = Annotated[int, Field(ge=1)]
Depth = Annotated[int, Field(ge=1, le=100)]


class UNetEncoder(Backbone):
    """Stages of (convolution, norm, activation) × convs, each stage coarser (Isensee et al. 2021).

    `auto` follows nnU-Net: an axis is halved while 8 voxels are left and its spacing is within a factor of 2
    of the finest such axis; kernels are 1 along an axis whose voxels are still far apart. Features are
    stages.0 (finest), stages.1, …

        backbones:
          encoder: {use: unet_encoder, base_channels: 16, stages: 5}
    """

    stages: Literal["auto"] | Annotated[int, Field(ge=2)] = Field(
        "auto", description="how many; auto means as many as the patch allows"
    )
    strides: Literal["auto"] | Annotated[tuple[int | Axes, ...], Field(min_length=2)] = Field(
        "auto", description="stride of each stage, one number or one per axis; the first is usually 1"
    )
    channels: Literal["auto"] | Annotated[tuple[Count, ...], Field(min_length=2)] = Field(
        "auto", description="of each stage; auto doubles from base_channels up to max_channels"
    )
    base_channels: int = Field(32, ge=1, description="channels of the first stage")
    max_channels: Literal["auto"] | Count = Field("auto", description="auto is 320 in 3-D, 512 in 2-D")
    kernels: Literal["auto"] | Annotated[tuple[Count | tuple[Count, ...], ...], Field(min_length=2)] = Field(
        "auto",
        description="of each stage, one odd number or one per axis; auto is 3, and 1 along coarse axes",
    )
    convs: Depth | Annotated[tuple[Depth, ...], Field(min_length=2)] = Field(
        2, description="convolutions per stage, one number or one for each stage"
    )
    norm: Literal["instance", "batch"] | None = Field(
        None, description="after each convolution; instance if not given"
    )
    activation: Activation | None = Field(None, description="after each norm; leaky_relu if not given")
    bias: bool | None = Field(None, description="whether convolutions have one; they do if not given")

    @field_validator("kernels")
    @classmethod
    def _are_odd(cls, kernels: Any) -> Any:
        return odd_kernels(kernels)

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        strides = self._strides(image)
        total = accumulate(strides, lambda a, b: tuple(x * y for x, y in zip(a, b)))
        return [
            FeatureInfo(f"stages.{i}", channels, stride)
            for i, (channels, stride) in enumerate(zip(self._channels(image, len(strides)), total))
        ]

    def build(self, image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.layers import Style
        from medfuse.builtin.nets.unet import Encoder

        strides = self._strides(image)
        return Encoder(
            image.channels,
            self._channels(image, len(strides)),
            self._kernels(image, strides),
            strides,
            self._convs(len(strides)),
            Style.of(self.norm, self.activation, self.bias),
        )

    def _strides(self, image: ImageInfo) -> list[Axes]:
        if self.strides == "auto":
            planned = plan_strides(image)
            wanted = len(planned) if self.stages == "auto" else self.stages
            if not 2 <= wanted <= len(planned):
                raise ShapeError(
                    f"a patch of {by(image.patch_size)} voxels allows {len(planned)} stages, "
                    f"not {max(wanted, 2)}; enlarge sample.patch_size, lower `stages` or give `strides`"
                )
            return planned[:wanted]
        given = per_axis("stride", self.strides, image.dims)
        if self.stages not in ("auto", len(given)):
            raise ShapeError(
                f"stages is {self.stages} and strides has {len(given)} entries; remove one of the two"
            )
        return given

    def _channels(self, image: ImageInfo, stages: int) -> list[int]:
        if self.channels == "auto":
            most = {2: 512, 3: 320}[image.dims] if self.max_channels == "auto" else self.max_channels
            return [min(self.base_channels * 2**i, most) for i in range(stages)]
        return list(for_each("channels", self.channels, stages))

    def _kernels(self, image: ImageInfo, strides: Sequence[Axes]) -> Sequence[Axes]:
        if self.kernels == "auto":
            return plan_kernels(image.spacing_mm, strides)
        return for_each("kernels", per_axis("kernel", self.kernels, image.dims), len(strides))

    def _convs(self, stages: int) -> list[int]:
        if isinstance(self.convs, int):
            return [self.convs] * stages
        return list(for_each("convs", self.convs, stages))
