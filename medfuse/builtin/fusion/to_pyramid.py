"""Maps of one stride, as transformers make them, brought to the strides of a pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from medfuse import FeatureInfo, FusionBlock, ShapeError
from medfuse.core.text import by
from medfuse.core.topology import Axes, for_each, per_axis

if TYPE_CHECKING:
    from torch import nn

Count = Annotated[int, Field(ge=1)]

STRIDES = (4, 8, 16, 32)
WIDEST, NARROWEST = 256, 8  # channels of the coarsest level, and of none fewer


class ToPyramid(FusionBlock):
    """Level i is input i, brought to stride i: yᵢ = resampleᵢ(act(norm(Wᵢ xᵢ))), finest first.

    So decoders take the blocks of a transformer as they take the stages of a ResNet. Inputs go from the
    shallowest block to the deepest, which becomes the coarsest level (DPT, Ranftl et al. 2021); a single
    input becomes all of them (ViTDet, Li et al. 2022). `resample` is transposed convolutions in steps of
    small factors or strided ones, each with norm and leaky ReLU, or nothing where the strides agree. Norms
    are over all channels together, as a coarse level may be one voxel. With `learned: false`
    yᵢ = resample(Wᵢ xᵢ), by linear interpolation or means over blocks. The levels are NAME.1 (finest),
    NAME.2, …, and NAME is the finest once more.

        pyramid: {use: to_pyramid, inputs: [encoder.*]}
        decoded: {use: unet_decoder, inputs: [image, pyramid.*], channels: 16}
    """

    aligns: ClassVar[bool] = False
    overhangs: ClassVar[bool] = True

    strides: Literal["auto"] | Annotated[tuple[Count | Axes, ...], Field(min_length=1)] = Field(
        "auto",
        description="of each level, fine to coarse, one number or one per axis; auto: 4, 8, 16, 32, and less "
        "along an axis on which a map is finer than on others, in proportion",
    )
    learned: bool = Field(True, description="resample by learned convolutions, or by interpolation and means")
    channels: Literal["auto"] | Count | Annotated[tuple[Count, ...], Field(min_length=1)] | None = Field(
        "auto",
        description="of every level, or of each; null keeps those of its map; auto: 256 on the coarsest, or "
        "those of its map where they are fewer, and half as many on each finer one, down to 8",
    )

    def plan(self, inputs: Sequence[FeatureInfo]) -> FeatureInfo:
        return self._levels(inputs)[0].named("to_pyramid")

    def side_outputs(self, inputs: Sequence[FeatureInfo]) -> Sequence[FeatureInfo]:
        return self._levels(inputs)

    def build(self, inputs: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.pyramid import Pyramid

        levels = self._levels(inputs)
        given = self._given(inputs)
        return Pyramid(
            channels_in=[x.channels for x in given],
            channels=None if self.channels is None else [level.channels for level in levels],
            strides_in=[x.stride for x in given],
            strides=[level.stride for level in levels],
            learned=self.learned,
        )

    def _levels(self, inputs: Sequence[FeatureInfo]) -> list[FeatureInfo]:
        """Finest first. Raises ShapeError where the strides are not, or do not go with the inputs."""
        given = self._given(inputs)
        strides, channels = self._strides(given), self._channels(given)
        for fine, coarse in pairwise(strides):
            if prod(fine) > prod(coarse):
                raise ShapeError(
                    f"to_pyramid goes from fine levels to coarse ones, and stride {by(fine)} stands before "
                    f"{by(coarse)}; give `strides` in that order, and inputs from shallow to deep"
                )
        return [
            FeatureInfo(str(number), width, stride)
            for number, (width, stride) in enumerate(zip(channels, strides), start=1)
        ]

    def _given(self, inputs: Sequence[FeatureInfo]) -> list[FeatureInfo]:
        """One input for each level. Raises ShapeError."""
        if level := next((x for x in inputs if x.image_level), None):
            raise ShapeError(
                f"to_pyramid makes levels of maps, and {level.name} says one thing of the whole image; take "
                "it out, and fuse it with the levels"
            )
        levels = len(STRIDES) if self.strides == "auto" else len(self.strides)
        if len(inputs) not in (1, levels):
            wanted = ", ".join(str(s) if isinstance(s, int) else by(s) for s in self._wanted())
            raise ShapeError(
                f"to_pyramid takes one map for each of its {levels} levels (strides {wanted}), or one for "
                f"all of them, not {len(inputs)}; choose {levels} evenly spaced blocks, or give "
                f"{len(inputs)} `strides`"
            )
        return [*inputs] * (levels if len(inputs) == 1 else 1)

    def _wanted(self) -> Sequence[int | Axes]:
        return STRIDES if self.strides == "auto" else self.strides

    def _strides(self, given: Sequence[FeatureInfo]) -> list[Axes]:
        if self.strides == "auto":
            return [_in_proportion(number, x.stride) for number, x in zip(STRIDES, given)]
        return per_axis("stride", self.strides, given[0].dims)

    def _channels(self, given: Sequence[FeatureInfo]) -> Sequence[int]:
        if self.channels is None:
            return [x.channels for x in given]
        if isinstance(self.channels, int):
            return [self.channels] * len(given)
        if self.channels == "auto":
            widest = min(given[-1].channels, WIDEST)
            halved = (widest // 2**step for step in range(len(given)))
            return [max(n, min(widest, NARROWEST)) for n in halved][::-1]
        return for_each("channels", self.channels, len(given))


def _in_proportion(number: int, stride: Axes) -> Axes:
    """`number` along the coarsest axes; along others the largest divisor of it that keeps their proportion.

    A divisor, so that levels nest: of a stride of 16×16×2, level 4 is 4×4×1 and level 32 is 32×32×4.
    """
    coarsest = max(stride)
    return tuple(
        next((d for d in range(number, 1, -1) if number % d == 0 and d * coarsest <= number * s), 1)
        for s in stride
    )
