"""The nested decoder of UNet++."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from medfuse import FeatureInfo, FusionBlock, ShapeError
from medfuse.builtin.fusion.unet_decoder import WIDTHS, Widths, kernel_of, nests, ratio_of, widths_of
from medfuse.core.text import by

if TYPE_CHECKING:
    from torch import nn


class UNetPlusPlus(FusionBlock):
    """A U-Net decoder whose skips are nested and dense (UNet++, Zhou et al. 2018).

    X(i, j) = convs([up(X(i+1, j-1)), X(i, 0), …, X(i, j-1)]), where X(i, 0) is input i and row 0 the finest.
    `up` is a transposed convolution whose kernel is its stride. Inputs may stand in any order; each row is a
    stage with the channels of its input, unless `channels` says otherwise. The result is the last node of row
    0; the nodes X(0, j) before it, for the paper's deep supervision, are NAME.j, the one nearest to the
    result first.

        decoded: {use: unet_plus_plus, inputs: [encoder.*]}
    """

    aligns: ClassVar[bool] = False

    channels: Widths = WIDTHS
    convs: int = Field(
        2, ge=1, le=100, description="convolutions per node; L inputs make L (L - 1) / 2 nodes"
    )

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        return self._finest(inputs).named("unet_plus_plus")

    def side_outputs(self, inputs: Sequence[FeatureInfo]) -> Sequence[FeatureInfo]:
        finest = self._finest(inputs)
        return [finest.named(str(column)) for column in range(len(inputs) - 2, 0, -1)]

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.decoders import UNetPlusPlus

        order = self._order(inputs)
        rows = [inputs[i] for i in order]
        ratios = [ratio_of(coarse, fine) for fine, coarse in pairwise(rows)]
        return UNetPlusPlus(
            order=order,
            channels=[x.channels for x in rows],
            widths=widths_of(self.channels, rows[:-1]),
            ratios=ratios,
            kernels=[kernel_of(ratio, fine) for ratio, fine in zip(ratios, rows)],
            convs=self.convs,
        )

    def _finest(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        """What a node of row 0 makes. Raises ShapeError."""
        rows = [inputs[i] for i in self._order(inputs)]
        return replace(rows[0], channels=widths_of(self.channels, rows[:-1])[0])

    def _order(self, inputs: Sequence[FeatureInfo]) -> list[int]:
        """Indices, finest first. Raises ShapeError where a stride is no multiple of the next finer one."""
        if len(inputs) < 2:
            raise ShapeError(
                "unet_plus_plus needs at least two inputs: a coarse map, and a finer one to skip to"
            )
        order = sorted(range(len(inputs)), key=lambda i: inputs[i].coarseness)
        for fine, coarse in pairwise(inputs[i] for i in order):
            if not nests(coarse, fine):
                raise ShapeError(
                    f"unet_plus_plus cannot go from {coarse.name} (stride {by(coarse.stride)}) to "
                    f"{fine.name} (stride {by(fine.stride)}): the coarser stride must be a multiple "
                    "on every axis"
                )
        return order
