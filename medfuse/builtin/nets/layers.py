"""Convolution, instance norm and leaky ReLU as nnU-Net stacks them, and upsampling by any whole factor."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

SLOPE = 0.01  # of the leaky ReLU

# by number of spatial axes; Any, as torch's types fix the length of per-axis tuples
CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
INSTANCE_NORM: dict[int, Any] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
BATCH_NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}

ACTIVATIONS: dict[str, Any] = {
    "leaky_relu": partial(nn.LeakyReLU, SLOPE, inplace=True),
    "relu": partial(nn.ReLU, inplace=True),
    "elu": partial(nn.ELU, inplace=True),
    "silu": partial(nn.SiLU, inplace=True),
    "mish": partial(nn.Mish, inplace=True),
    "gelu": nn.GELU,
}


@dataclass(frozen=True)
class Style:
    """What stands around convolutions. norm: `instance` or `batch`. activation: one of ACTIVATIONS."""

    norm: str = "instance"
    activation: str = "leaky_relu"
    bias: bool = True

    @classmethod
    def of(cls, norm: str | None, activation: str | None, bias: bool | None) -> Style:
        """nnU-Net's, where nothing is said."""
        return cls(norm or "instance", activation or "leaky_relu", bias is not False)


NNUNETS = Style()


def conv_norm_act(
    channels_in: int,
    channels_out: int,
    kernel: Sequence[int],
    stride: Sequence[int] | None = None,
    style: Style = NNUNETS,
) -> nn.Sequential:
    """Convolution (padded to ⌈n / stride⌉ voxels), norm, activation. Kernels are odd."""
    dims = len(kernel)
    convolution = CONVOLUTION[dims](
        channels_in,
        channels_out,
        tuple(kernel),
        stride=tuple(stride or (1,) * dims),
        padding=tuple(k // 2 for k in kernel),
        bias=style.bias,
    )
    return nn.Sequential(OrderedDict(conv=convolution, norm_act=norm_act(channels_out, dims, style)))


def norm_act(channels: int, dims: int, style: Style = NNUNETS) -> nn.Sequential:
    """A norm with learned scale and shift, and an activation."""
    norms = BATCH_NORM if style.norm == "batch" else INSTANCE_NORM
    norm = norms[dims](channels, eps=1e-5, affine=True)
    # in place on the norm's output, which nobody taps and which no gradient needs
    return nn.Sequential(OrderedDict(norm=norm, act=ACTIVATIONS[style.activation]()))


def conv_act(channels_in: int, channels_out: int, dims: int) -> nn.Sequential:
    """1×1 convolution and leaky ReLU, of what is the same at every voxel: a norm would subtract it."""
    convolution = CONVOLUTION[dims](channels_in, channels_out, 1)
    return nn.Sequential(OrderedDict(conv=convolution, act=nn.LeakyReLU(SLOPE, inplace=True)))


def conv_stage(
    channels_in: int,
    channels_out: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    convs: int,
    style: Style = NNUNETS,
) -> nn.Sequential:
    """`convs` blocks, the first of which has the stride and changes the channels."""
    first = conv_norm_act(channels_in, channels_out, kernel, stride, style)
    return nn.Sequential(
        first, *(conv_norm_act(channels_out, channels_out, kernel, style=style) for _ in range(convs - 1))
    )


def transposed(channels_in: int, channels_out: int, factor: Sequence[int], *, bias: bool = True) -> nn.Module:
    """Transposed convolution whose kernel is its stride: every voxel becomes a block of `factor`."""
    made: nn.Module = TRANSPOSED[len(factor)](
        channels_in, channels_out, tuple(factor), stride=tuple(factor), bias=bias
    )
    return initialize(made)


def factors(total: Sequence[int]) -> list[tuple[int, ...]]:
    """Primes whose product per axis is `total`: (8, 2) → (2, 2), (2, 1), (2, 1)."""
    left = list(total)
    steps: list[tuple[int, ...]] = []
    while max(left) > 1:
        step = tuple(next(p for p in range(2, n + 1) if n % p == 0) if n > 1 else 1 for n in left)
        left = [n // p for n, p in zip(left, step)]
        steps.append(step)
    return steps


class PixelShuffle(nn.Module):
    """Channels become voxels: (b, c × ∏factor, *s) → (b, c, *(s × factor)) (Shi et al. 2016)."""

    def __init__(self, factor: Sequence[int]) -> None:
        super().__init__()
        self.factor = tuple(factor)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *size = x.shape
        dims = len(size)
        made = channels // prod(self.factor)
        blocks = x.reshape(batch, made, *self.factor, *size)
        order = [axis for i in range(dims) for axis in (2 + dims + i, 2 + i)]  # voxel, then place inside it
        interleaved = blocks.permute(0, 1, *order)
        return interleaved.reshape(batch, made, *(n * f for n, f in zip(size, self.factor)))


def shuffled(channels_in: int, channels_out: int, factor: Sequence[int]) -> nn.Module:
    """A convolution and a pixel shuffle, begun as nearest-neighbour upsampling (Aitken et al. 2017).

    Equal weights for the voxels of a block keep the chequered pattern away that random ones begin with.
    """
    dims = len(factor)
    block = prod(factor)
    convolution = CONVOLUTION[dims](channels_in, channels_out * block, 3, padding=1)
    initialize(convolution)
    with torch.no_grad():
        convolution.weight.copy_(convolution.weight[::block].repeat_interleave(block, dim=0))
    return nn.Sequential(convolution, PixelShuffle(factor))


Module = TypeVar("Module", bound=nn.Module)


def initialize(module: Module) -> Module:
    """Kaiming's normal initialisation for leaky ReLU, biases 0 (He et al. 2015). Returns `module`."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(m.weight, a=SLOPE)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    return module
