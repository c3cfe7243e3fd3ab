"""nnU-Net's residual encoder as a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from medfuse import Backbone, FeatureInfo, ImageInfo, PluginError, ShapeError
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

BLOCKS = (1, 3, 4, 6)  # of the first stages, and 6 of every further one: nnU-Net's ResEnc presets
MOST_CHANNELS = {2: 512, 3: 320}

Count = Annotated[int, Field(ge=1)]


class ResidualEncoder(Backbone):
    """The residual encoder of nnU-Net's ResEnc presets (Isensee et al. 2024), its shape planned as theirs.

    Features are stages.0 (finest), stages.1, …; the decoder of the presets has one convolution a stage.

        backbones:
          encoder: {use: residual_encoder, base_channels: 32}
    """

    strides: Literal["auto"] | Annotated[tuple[int | Axes, ...], Field(min_length=2)] = Field(
        "auto", description="stride of each stage, one number or one per axis; auto follows nnU-Net"
    )
    kernels: Literal["auto"] | Annotated[tuple[Count | tuple[Count, ...], ...], Field(min_length=2)] = Field(
        "auto", description="of each stage, odd; auto is 3, and 1 along an axis whose voxels are far apart"
    )
    channels: Literal["auto"] | Annotated[tuple[Count, ...], Field(min_length=2)] = Field(
        "auto", description="of each stage; auto doubles from base_channels up to 320 in 3-D, 512 in 2-D"
    )
    base_channels: int = Field(32, ge=1, description="channels of the first stage")
    blocks: Literal["auto"] | Annotated[tuple[Count, ...], Field(min_length=2)] = Field(
        "auto", description="residual blocks of each stage; auto is 1, 3, 4, and 6 from there on"
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
        total = accumulate(strides, lambda a, b: tuple(x * y for x, y in zip(a, b, strict=True)))
        return [
            FeatureInfo(f"stages.{i}", channels, stride)
            for i, (channels, stride) in enumerate(
                zip(self._channels(image, len(strides)), total, strict=True)
            )
        ]

    def build(self, image: ImageInfo) -> nn.Module:
        from torch import nn

        try:
            from dynamic_network_architectures.building_blocks import residual_encoders
        except ImportError as error:
            raise PluginError(
                f"residual_encoder needs dynamic-network-architectures ({error}); pip install medfuse-dynamic"
            ) from error
        strides = self._strides(image)
        convolution, instance, batch = {
            2: (nn.Conv2d, nn.InstanceNorm2d, nn.BatchNorm2d),
            3: (nn.Conv3d, nn.InstanceNorm3d, nn.BatchNorm3d),
        }[image.dims]
        activation = {
            "leaky_relu": nn.LeakyReLU,
            "relu": nn.ReLU,
            "elu": nn.ELU,
            "silu": nn.SiLU,
            "mish": nn.Mish,
            "gelu": nn.GELU,
        }[self.activation or "leaky_relu"]
        network: nn.Module = residual_encoders.ResidualEncoder(
            input_channels=image.channels,
            n_stages=len(strides),
            features_per_stage=self._channels(image, len(strides)),
            conv_op=convolution,
            kernel_sizes=self._kernels(image, strides),
            strides=strides,
            n_blocks_per_stage=self._blocks(len(strides)),
            conv_bias=self.bias is not False,
            norm_op=batch if self.norm == "batch" else instance,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=activation,
            nonlin_kwargs={} if activation is nn.GELU else {"inplace": True},
        )
        return _for_any_size(network)

    def _strides(self, image: ImageInfo) -> list[Axes]:
        if self.strides != "auto":
            return per_axis("stride", self.strides, image.dims)
        planned = plan_strides(image)
        if len(planned) < 2:
            raise ShapeError("residual_encoder needs two stages or more; enlarge sample.patch_size")
        return planned

    def _kernels(self, image: ImageInfo, strides: Sequence[Axes]) -> list[list[int]]:
        given = self.kernels
        kernels = (
            plan_kernels(image.spacing_mm, strides)
            if given == "auto"
            else for_each("kernels", per_axis("kernel", given, image.dims), len(strides))
        )
        return [list(kernel) for kernel in kernels]

    def _channels(self, image: ImageInfo, stages: int) -> list[int]:
        if self.channels != "auto":
            return list(for_each("channels", self.channels, stages))
        return [min(self.base_channels * 2**i, MOST_CHANNELS[image.dims]) for i in range(stages)]

    def _blocks(self, stages: int) -> list[int]:
        if self.blocks != "auto":
            return list(for_each("blocks", self.blocks, stages))
        return [BLOCKS[min(i, len(BLOCKS) - 1)] for i in range(stages)]


def _for_any_size(network: nn.Module) -> nn.Module:
    """The network, whose shortcuts were written for even sizes and as functions without a name.

    Where a stride leaves a rest, convolutions round up and shortcuts, which pool, down: the two could
    not be added. Even sizes give what they gave.
    """
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.AvgPool2d | nn.AvgPool3d):
            module.ceil_mode = True
        skip = getattr(module, "skip", None)
        if skip is not None and not isinstance(skip, nn.Module):  # y = x, which does not pickle
            module.skip = nn.Identity()
    return network
