"""Channels innermost in memory, which most convolutions prefer, and layers that are quicker in that order."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.jit._trace import is_tracing
from torch.nn import functional

_VECTOR = 16  # channels from which it pays; the kernel takes fewer of them one by one


def channels_last(axes: int) -> torch.memory_format:
    """The layout with channels innermost, for tensors of 4 or 5 axes."""
    return torch.channels_last if axes == 4 else torch.channels_last_3d


def lay_out(model: nn.Module, axes: int, layout: torch.memory_format) -> None:
    """Reorder weights in place. `Module.to` would refuse a model with 2-D and 3-D convolutions.

    Torch's instance norms and transposed convolutions become ones that do the same in less time on a CPU.
    """
    with torch.inference_mode(False):  # a weight that is made in inference mode cannot be trained again
        for parameter in model.parameters():
            if parameter.dim() == axes:
                parameter.data = parameter.data.contiguous(memory_format=layout)
    for module in model.modules():
        module.__class__ = _QUICKER.get(type(module), type(module))


class _InstanceNorm(nn.modules.instancenorm._InstanceNorm):
    """An instance norm that takes each image's statistics by a batch norm of that image alone, on a CPU.

    Where it is compiled it is a group norm of a channel each.

    Torch's own reorders memory on the way in and again in the next convolution, which takes several times as
    long as the norm itself (pytorch#72341). With a batch of 1 it gives wrong gradients besides, where the
    gradient that comes in has its channels innermost: torch reads one of the two in the other's order.
    """

    axes: int

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != self.axes or x.device.type != "cpu":
            return super().forward(x)
        if is_tracing() or torch.compiler.is_exporting():  # other engines have an instance norm of their own
            return super().forward(x)
        if torch.compiler.is_compiling() and self.running_mean is None:  # in the order that x has
            return functional.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)
        alone = len(x) == 1
        if not alone and (self.running_mean is not None or not self._pays(x)):
            return super().forward(x)
        own_statistics = self.training or not self.track_running_stats
        normed = [
            functional.batch_norm(
                image,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                own_statistics,
                self.momentum or 0.0,
                self.eps,
            )
            for image in x.split(1)
        ]
        return normed[0] if alone else torch.cat(normed)

    def _pays(self, x: Tensor) -> bool:
        return x.shape[1] >= _VECTOR and x.is_contiguous(memory_format=channels_last(self.axes))


class _InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    axes = 4


class _InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    axes = 5


class _ConvTranspose(nn.modules.conv._ConvTransposeNd):
    """A transposed convolution that makes a block of every voxel: a product of matrices in training in bf16.

    Torch's gradients of it take several times as long as the multiplications in them.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is None and self._makes_blocks() and self._trains_in_bf16(x):
            return blocks(x, self.weight, self.bias)
        return super().forward(x, output_size)

    def _makes_blocks(self) -> bool:
        overlap = self.kernel_size != self.stride or any((*self.padding, *self.output_padding))
        return not overlap and self.groups == 1 and all(step == 1 for step in self.dilation)

    def _trains_in_bf16(self, x: Tensor) -> bool:
        if x.device.type != "cpu" or x.dim() != self.weight.dim() or not torch.is_grad_enabled():
            return False
        if torch.is_autocast_enabled("cpu"):
            return torch.get_autocast_dtype("cpu") == torch.bfloat16
        return x.dtype == torch.bfloat16


def blocks(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(batch, channels, *size) by weights (channels, others, *factor): (batch, others, *(size × factor))."""
    channels, others, *factor = weight.shape
    batch, _, *size = x.shape
    kernel = weight.movedim((0, 1), (-1, -2)).reshape(-1, channels)
    repeated = None if bias is None else bias.repeat(len(kernel) // others)
    made = functional.linear(x.movedim(1, -1), kernel, repeated).view(batch, *size, *factor, others)
    dims = len(size)
    pairs = [axis for dim in range(1, dims + 1) for axis in (dim, dim + dims)]
    together = made.permute(0, *pairs, -1)
    return together.reshape(batch, *(n * f for n, f in zip(size, factor)), others).movedim(-1, 1)


class _ConvTranspose2d(_ConvTranspose, nn.ConvTranspose2d):
    pass


class _ConvTranspose3d(_ConvTranspose, nn.ConvTranspose3d):
    pass


_QUICKER: dict[type[nn.Module], type[nn.Module]] = {
    nn.InstanceNorm2d: _InstanceNorm2d,
    nn.InstanceNorm3d: _InstanceNorm3d,
    nn.ConvTranspose2d: _ConvTranspose2d,
    nn.ConvTranspose3d: _ConvTranspose3d,
}
