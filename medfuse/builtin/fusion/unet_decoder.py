"""The decoder of the plain U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from medfuse import FeatureInfo, FusionBlock, ShapeError
from medfuse.core.text import by
from medfuse.core.topology import Activation, Axes, for_each, odd_kernels, per_axis

if TYPE_CHECKING:
    from torch import nn

Count = Annotated[int, Field(ge=1)]
Depth = Annotated[int, Field(ge=1, le=100)]
Widths = Count | Annotated[tuple[Count, ...], Field(min_length=1)] | None
WIDTHS: Widths = Field(
    None,
    description="fewest channels of a stage, whose skip may have fewer, as `image` has; or a list, those of "
    "each stage, finest first; null: those of its skip",
)


class UNetDecoder(FusionBlock):
    """From the coarsest map up: xᵢ = convs([up(xᵢ₊₁), skipᵢ]) (Ronneberger et al. 2015; Isensee et al. 2021).

    `up` is a transposed convolution whose kernel is its stride. Inputs may stand in any order; each stage has
    the channels of its skip, unless `channels` says otherwise: where `image` is the finest skip, the last
    stage has as few. The result is the finest stage; the coarser ones are NAME.1, NAME.2, …

        decoded: {use: unet_decoder, inputs: [encoder.*]}
        other: {use: unet_decoder, inputs: [image, encoder.*], channels: 16}
    """

    aligns: ClassVar[bool] = False

    channels: Widths = WIDTHS
    convs: Depth | Annotated[tuple[Depth, ...], Field(min_length=1)] = Field(
        2, description="convolutions per stage, one number or one for each stage, finest first"
    )
    kernels: Literal["auto"] | Annotated[tuple[Count | tuple[Count, ...], ...], Field(min_length=1)] = Field(
        "auto",
        description="of each stage, finest first, one odd number or one per axis; auto: 3, and 1 along an "
        "axis that is not pooled yet",
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

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        order = self._order(inputs)
        self._kernels(order)
        self._convs(len(order) - 1)
        return self._stages(order)[0].named("unet_decoder")

    def side_outputs(self, inputs: Sequence[FeatureInfo]) -> Sequence[FeatureInfo]:
        coarser = self._stages(self._order(inputs))[1:]
        return [x.named(str(level)) for level, x in enumerate(coarser, start=1)]

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.layers import Style
        from medfuse.builtin.nets.unet import Decoder

        order = self._order(inputs)
        return Decoder(
            order=[inputs.index(x) for x in order],
            channels=[x.channels for x in order],
            widths=[stage.channels for stage in self._stages(order)][::-1],
            ratios=[ratio_of(coarse, fine) for coarse, fine in pairwise(order)],
            kernels=self._kernels(order),
            convs=self._convs(len(order) - 1),
            style=Style.of(self.norm, self.activation, self.bias),
        )

    def _stages(self, order: Sequence[FeatureInfo]) -> list[FeatureInfo]:
        """What each makes, finest first. Raises ShapeError."""
        skips = order[:0:-1]
        return [replace(x, channels=n) for x, n in zip(skips, widths_of(self.channels, skips))]

    def _kernels(self, order: Sequence[FeatureInfo]) -> Sequence[Axes]:
        """One per stage, coarsest first. Raises ShapeError."""
        if self.kernels == "auto":
            return [kernel_of(ratio_of(coarse, fine), fine) for coarse, fine in pairwise(order)]
        return for_each("kernels", per_axis("kernel", self.kernels, order[0].dims), len(order) - 1)[::-1]

    def _convs(self, stages: int) -> Sequence[int]:
        if isinstance(self.convs, int):
            return [self.convs] * stages
        return for_each("convs", self.convs, stages)[::-1]

    def _order(self, inputs: Sequence[FeatureInfo]) -> list[FeatureInfo]:
        """Coarsest first. Raises ShapeError where a stride is no multiple of the next finer one."""
        if len(inputs) < 2:
            raise ShapeError(
                "unet_decoder needs at least two inputs: a coarse map, and a finer one to skip to"
            )
        order = sorted(inputs, key=lambda x: x.coarseness, reverse=True)
        for coarse, fine in pairwise(order):
            if not nests(coarse, fine):
                raise ShapeError(
                    f"unet_decoder cannot go from {coarse.name} (stride {by(coarse.stride)}) to {fine.name} "
                    f"(stride {by(fine.stride)}): the coarser stride must be a multiple on every axis"
                )
        return order


def widths_of(channels: Widths, skips: Sequence[FeatureInfo]) -> Sequence[int]:
    """Channels of each stage by the setting of that name, in the order of their skips. Raises ShapeError."""
    if isinstance(channels, tuple):
        return for_each("channels", channels, len(skips))
    return [max(x.channels, channels or 1) for x in skips]


def nests(coarse: FeatureInfo, fine: FeatureInfo) -> bool:
    """Whether a block of fine voxels fills a coarse one; what is image-level covers all of them anyway."""
    return coarse.image_level or not any(c % f for c, f in zip(coarse.stride, fine.stride))


def ratio_of(coarse: FeatureInfo, fine: FeatureInfo) -> tuple[int, ...]:
    return tuple(-(-c // f) for c, f in zip(coarse.stride, fine.stride))


def kernel_of(ratio: tuple[int, ...], fine: FeatureInfo) -> tuple[int, ...]:
    """3, and 1 along an axis that is not pooled yet while others are: its voxels are far apart."""
    if max(ratio) == 1:
        return (3,) * fine.dims
    return tuple(1 if r == s == 1 else 3 for r, s in zip(ratio, fine.stride))
