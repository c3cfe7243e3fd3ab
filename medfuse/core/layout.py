"""Channels innermost in memory, which most convolutions prefer, and instance norms that keep them there."""

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

    Torch's instance norms become ones that compute the same and keep channels innermost.
    """
    with torch.inference_mode(False):  # a weight that is made in inference mode cannot be trained again
        for parameter in model.parameters():
            if parameter.dim() == axes:
                parameter.data = parameter.data.contiguous(memory_format=layout)
    for module in model.modules():
        module.__class__ = _KEEPING.get(type(module), type(module))


class _KeepsLayout(nn.modules.instancenorm._InstanceNorm):
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


class _InstanceNorm2d(_KeepsLayout, nn.InstanceNorm2d):
    axes = 4


class _InstanceNorm3d(_KeepsLayout, nn.InstanceNorm3d):
    axes = 5


_KEEPING: dict[type[nn.Module], type[nn.Module]] = {
    nn.InstanceNorm2d: _InstanceNorm2d,
    nn.InstanceNorm3d: _InstanceNorm3d,
}
