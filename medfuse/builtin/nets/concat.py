"""Concatenation of maps of one size, and of maps that are first brought to the image's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfuse.builtin.nets.layers import (
    CONVOLUTION,
    INSTANCE_NORM,
    SLOPE,
    conv_act,
    conv_norm_act,
    factors,
    initialize,
    norm_act,
    shuffled,
    transposed,
)
from medfuse.model.resample import fit, resize


class Concat(nn.Module):
    """Maps of one size, side by side along the channels, then `project` where there is one."""

    def __init__(self, project: nn.Module | None = None) -> None:
        super().__init__()
        self.project = initialize(project) if project else nn.Identity()

    def forward(self, *inputs: Tensor) -> Tensor:
        result: Tensor = self.project(torch.cat(inputs, dim=1))
        return result


class ConcatWithLevels(nn.Module):
    """Maps of one size, some of them the same at every voxel: act(norm(W [maps]) + V [levels]).

    `levels` are the places of these among the inputs. They come after the norm, which would subtract them.
    """

    def __init__(self, channels_in: Sequence[int], channels: int, levels: Sequence[int], dims: int) -> None:
        super().__init__()
        self.levels = frozenset(levels)
        widths = [sum(c for i, c in enumerate(channels_in) if (i in levels) == level) for level in (0, 1)]
        self.project, self.shift = (CONVOLUTION[dims](width, channels, 1) for width in widths)
        self.norm = INSTANCE_NORM[dims](channels, eps=1e-5, affine=True)
        initialize(self)

    def forward(self, *inputs: Tensor) -> Tensor:
        maps = [x for i, x in enumerate(inputs) if i not in self.levels]
        levels = [x for i, x in enumerate(inputs) if i in self.levels]
        normed = self.norm(self.project(torch.cat(maps, dim=1)))
        return functional.leaky_relu(normed + self.shift(torch.cat(levels, dim=1)), SLOPE)


class ConcatWithImage(nn.Module):
    """Each map through its own upsampler to the size of inputs[image], then side by side along the channels.

    An upsampler is None where the map is already at that size.
    """

    def __init__(self, image: int, upsamplers: Sequence[nn.Module | None]) -> None:
        super().__init__()
        self.image = image
        self.upsamplers = nn.ModuleList(u or AsItIs() for u in upsamplers)

    def forward(self, *inputs: Tensor) -> Tensor:
        size = inputs[self.image].shape[2:]
        return torch.cat([upsample(x, size) for upsample, x in zip(self.upsamplers, inputs)], dim=1)


class AsItIs(nn.Module):
    """A map that needs no upsampling."""

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return x


class Interpolate(nn.Module):
    """Project, then interpolate to the size that is asked for."""

    def __init__(self, project: nn.Module | None, mode: Literal["linear", "nearest"]) -> None:
        super().__init__()
        self.project = initialize(project) if project else nn.Identity()
        self.mode = mode

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return resize(self.project(x), size, self.mode)


class Learned(nn.Module):
    """Project, then learned steps by small factors that multiply to `stride`, then the exact size."""

    def __init__(
        self,
        project: nn.Module | None,
        channels: int,
        stride: Sequence[int],
        kind: Literal["transposed", "pixelshuffle"],
    ) -> None:
        super().__init__()
        self.project = initialize(project) if project else nn.Identity()
        step = {"transposed": transposed, "pixelshuffle": shuffled}[kind]
        self.steps = nn.Sequential(
            *(
                nn.Sequential(step(channels, channels, factor), norm_act(channels, len(stride)))
                for factor in factors(stride)
            )
        )

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return fit(self.steps(self.project(x)), size)


def projection(channels_in: int, channels_out: int, dims: int, *, image_level: bool = False) -> nn.Module:
    """1×1 convolution, instance norm, leaky ReLU; of what is image-level, without the norm."""
    if image_level:
        return conv_act(channels_in, channels_out, dims)
    return conv_norm_act(channels_in, channels_out, (1,) * dims)
