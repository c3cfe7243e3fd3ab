"""The decoder of the plain U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from medfuse import FeatureInfo, FusionBlock, ShapeError
from medfuse.core.text import by

if TYPE_CHECKING:
    from torch import nn


class UNetDecoder(FusionBlock):
    """From the coarsest map up: xᵢ = convs([up(xᵢ₊₁), skipᵢ]) (Ronneberger et al. 2015; Isensee et al. 2021).

    `up` is a transposed convolution whose kernel is its stride. Inputs may stand in any order; each stage has
    the channels of its skip. The result is the finest stage; the coarser ones are NAME.1, NAME.2, …

        decoded: {use: unet_decoder, inputs: [encoder.*]}
    """

    aligns: ClassVar[bool] = False

    convs: int = Field(2, ge=1, description="convolutions per stage")

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        return self._order(inputs)[-1].named("unet_decoder")

    def side_outputs(self, inputs: Sequence[FeatureInfo]) -> Sequence[FeatureInfo]:
        coarser = self._order(inputs)[-2:0:-1]
        return [x.named(str(level)) for level, x in enumerate(coarser, start=1)]

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.unet import Decoder

        order = self._order(inputs)
        ratios = [ratio_of(coarse, fine) for coarse, fine in pairwise(order)]
        return Decoder(
            order=[inputs.index(x) for x in order],
            channels=[x.channels for x in order],
            ratios=ratios,
            kernels=[kernel_of(ratio, fine) for ratio, fine in zip(ratios, order[1:])],
            convs=self.convs,
        )

    def _order(self, inputs: Sequence[FeatureInfo]) -> list[FeatureInfo]:
        """Coarsest first. Raises ShapeError where a stride is no multiple of the next finer one."""
        if len(inputs) < 2:
            raise ShapeError(
                "unet_decoder needs at least two inputs: a coarse map, and a finer one to skip to"
            )
        order = sorted(inputs, key=lambda x: prod(x.stride), reverse=True)
        for coarse, fine in pairwise(order):
            if any(c % f for c, f in zip(coarse.stride, fine.stride)):
                raise ShapeError(
                    f"unet_decoder cannot go from {coarse.name} (stride {by(coarse.stride)}) to {fine.name} "
                    f"(stride {by(fine.stride)}): the coarser stride must be a multiple on every axis"
                )
        return order


def ratio_of(coarse: FeatureInfo, fine: FeatureInfo) -> tuple[int, ...]:
    return tuple(c // f for c, f in zip(coarse.stride, fine.stride))


def kernel_of(ratio: tuple[int, ...], fine: FeatureInfo) -> tuple[int, ...]:
    """3, and 1 along an axis that is not pooled yet while others are: its voxels are far apart."""
    if max(ratio) == 1:
        return (3,) * fine.dims
    return tuple(1 if r == s == 1 else 3 for r, s in zip(ratio, fine.stride))
