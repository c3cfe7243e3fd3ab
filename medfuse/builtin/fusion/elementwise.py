"""Maps combined voxel by voxel and channel by channel: what all ways share, and six operations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from medfuse import FeatureInfo, FusionBlock, ShapeError

if TYPE_CHECKING:
    from torch import nn

    from medfuse.builtin.nets.combine import Combination


class Elementwise(FusionBlock):
    """Maps of equal channels, or each projected to as many, become one."""

    name: ClassVar[str]
    fewest: ClassVar[int] = 1

    channels: int | None = Field(
        None,
        ge=1,
        description="project each map to this many by its own 1×1 convolution, instance norm and leaky ReLU; "
        "needed where maps differ in channels",
    )

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        if len(inputs) < self.fewest:
            raise ShapeError(f"{self.name} needs at least {self.fewest} maps, not {len(inputs)}; add one")
        return FeatureInfo(self.name, self.channels or _equal_channels(self.name, inputs), inputs[0].stride)

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.combine import Combined, projections

        combination = self._combination(len(inputs), self.plan(inputs).channels)
        return Combined(combination, projections(inputs, self.channels))

    def _combination(self, maps: int, channels: int) -> Combination:
        """How that many maps of so many channels become one."""
        raise NotImplementedError  # each operation has its own


def _equal_channels(name: str, inputs: Sequence[FeatureInfo]) -> int:
    """The channels that all maps have. Raises ShapeError: a map of one channel is not spread over others."""
    if len({x.channels for x in inputs}) > 1:
        found = ", ".join(f"{x.name} has {x.channels}" for x in inputs)
        raise ShapeError(
            f"{name} needs maps of equal channels, but {found}; write `channels: N` to project each to N"
        )
    return inputs[0].channels


class Add(Elementwise):
    """The sum: y = x₁ + x₂ + …, as in residual networks (He et al. 2016).

    fused: {use: add, inputs: [decoded, encoder.stages.0]}
    """

    name: ClassVar[str] = "add"

    def _combination(self, maps: int, channels: int) -> Combination:
        from medfuse.builtin.nets.combine import add

        return add


class Subtract(Elementwise):
    """The first minus the others: y = x₁ - x₂ - …, such as the change between two scans.

    change: {use: subtract, inputs: [followup.layer1, baseline.layer1]}
    """

    name: ClassVar[str] = "subtract"
    fewest: ClassVar[int] = 2

    def _combination(self, maps: int, channels: int) -> Combination:
        from medfuse.builtin.nets.combine import subtract

        return subtract


class Multiply(Elementwise):
    """The product: y = x₁ · x₂ · …, so that each map gates the others.

    gated: {use: multiply, inputs: [decoded, encoder.stages.0]}
    """

    name: ClassVar[str] = "multiply"

    def _combination(self, maps: int, channels: int) -> Combination:
        from medfuse.builtin.nets.combine import multiply

        return multiply


class Divide(Elementwise):
    """The first over the others: y = x₁ / x₂ / …, each denominator at least epsilon away from 0.

    A ratio does not change with a gain that both maps share. It grows, and jumps, where a denominator crosses
    0; a greater epsilon calms it.

        ratio: {use: divide, inputs: [a.layer1, b.layer1], epsilon: 0.2}
    """

    name: ClassVar[str] = "divide"
    fewest: ClassVar[int] = 2

    epsilon: float = Field(
        0.1,
        ge=1e-6,
        allow_inf_nan=False,
        description="a denominator smaller than this becomes this and keeps its sign; 0 counts as positive",
    )

    def _combination(self, maps: int, channels: int) -> Combination:
        from medfuse.builtin.nets.combine import divide

        return partial(divide, epsilon=self.epsilon)


class Max(Elementwise):
    """The largest: y = max(x₁, x₂, …), whichever map is surest, as in maxout (Goodfellow et al. 2013).

    fused: {use: max, inputs: [decoded, encoder.stages.0]}
    """

    name: ClassVar[str] = "max"

    def _combination(self, maps: int, channels: int) -> Combination:
        from medfuse.builtin.nets.combine import maximum

        return maximum


class Mean(Elementwise):
    """The mean: y = (x₁ + x₂ + …) / n, the sum on the scale of one map.

    fused: {use: mean, inputs: [decoded, encoder.stages.0]}
    """

    name: ClassVar[str] = "mean"

    def _combination(self, maps: int, channels: int) -> Combination:
        from medfuse.builtin.nets.combine import mean

        return mean
