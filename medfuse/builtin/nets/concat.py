"""Concatenation of maps of one size, and of maps that are first brought to the image's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from medfuse.builtin.nets.layers import conv_norm_act, factors, initialize, norm_act, shuffled, transposed
from medfuse.model.resample import fit, resize


class Concat(nn.Module):
    """Maps of one size, side by side along the channels, then `project` where there is one."""

    def __init__(self, project: nn.Module | None = None) -> None:
        super().__init__()
        self.project = initialize(project) if project else nn.Identity()

    def forward(self, *inputs: Tensor) -> Tensor:
        result: Tensor = self.project(torch.cat(inputs, dim=1))
        return result


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


def projection(channels_in: int, channels_out: int, dims: int) -> nn.Module:
    """1×1 convolution, instance norm, leaky ReLU."""
    return conv_norm_act(channels_in, channels_out, (1,) * dims)
