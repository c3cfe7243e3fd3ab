"""The encoder of the plain U-Net, its shape planned from patch size and spacing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from medfuse import Backbone, FeatureInfo, ImageInfo, ShapeError
from medfuse.core.text import by

if TYPE_CHECKING:
    from torch import nn

SMALLEST = 4  # voxels that an axis keeps at least
FAR = 2.0  # voxels of an axis are far apart from this multiple of the finest spacing

Axes = tuple[int, ...]
Count = Annotated[int, Field(ge=1)]


class UNetEncoder(Backbone):
    """Stages of (convolution, instance norm, leaky ReLU) × convs, each stage coarser (Isensee et al. 2021).

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
    convs: int = Field(2, ge=1, description="convolutions per stage")

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        strides = self._strides(image)
        total = accumulate(strides, lambda a, b: tuple(x * y for x, y in zip(a, b)))
        return [
            FeatureInfo(f"stages.{i}", channels, stride)
            for i, (channels, stride) in enumerate(zip(self._channels(image, len(strides)), total))
        ]

    def build(self, image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.unet import Encoder

        strides = self._strides(image)
        kernels = plan_kernels(image.spacing_mm, strides)
        return Encoder(image.channels, self._channels(image, len(strides)), kernels, strides, self.convs)

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
        given = [(s,) * image.dims if isinstance(s, int) else s for s in self.strides]
        for stride in given:
            if len(stride) != image.dims or min(stride) < 1:
                raise ShapeError(
                    f"stride {list(stride)} does not fit a {image.dims}-D patch; give {image.dims} numbers"
                )
        if self.stages not in ("auto", len(given)):
            raise ShapeError(
                f"stages is {self.stages} and strides has {len(given)} entries; remove one of the two"
            )
        return given

    def _channels(self, image: ImageInfo, stages: int) -> list[int]:
        if self.channels == "auto":
            most = {2: 512, 3: 320}[image.dims] if self.max_channels == "auto" else self.max_channels
            return [min(self.base_channels * 2**i, most) for i in range(stages)]
        if len(self.channels) != stages:
            raise ShapeError(
                f"channels has {len(self.channels)} entries for {stages} stages; give one per stage"
            )
        return list(self.channels)


def plan_strides(image: ImageInfo) -> list[Axes]:
    """The stride of each stage by nnU-Net's rule; the first is 1 on every axis."""
    size, spacing = list(image.patch_size), list(image.spacing_mm)
    strides: list[Axes] = [(1,) * image.dims]
    while long := [axis for axis, n in enumerate(size) if n >= 2 * SMALLEST]:
        finest = min(spacing[axis] for axis in long)
        halved = [axis for axis in long if spacing[axis] / finest < FAR]
        if len(halved) == 1 and size[halved[0]] < 3 * SMALLEST:
            break
        strides.append(tuple(2 if axis in halved else 1 for axis in range(image.dims)))
        for axis in halved:
            size[axis] = -(-size[axis] // 2)
            spacing[axis] *= 2
    return strides


def plan_kernels(spacing_mm: Sequence[float], strides: Sequence[Axes]) -> list[Axes]:
    """Per stage: 3, and 1 along an axis until its voxels are no longer far apart; 3 in the last stage."""
    kernels: list[Axes] = []
    spacing, kernel = list(spacing_mm), (1,) * len(spacing_mm)
    for stride in strides:
        spacing = [s * n for s, n in zip(spacing, stride)]
        kernel = tuple(3 if k == 3 or s / min(spacing) < FAR else 1 for k, s in zip(kernel, spacing))
        kernels.append(kernel)
    return [*kernels[:-1], (3,) * len(spacing)]
