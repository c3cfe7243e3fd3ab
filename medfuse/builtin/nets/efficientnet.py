"""MONAI's EfficientNet without its head, padded for the image it is given."""

from __future__ import annotations

from typing import Any, Literal

from monai.networks.nets.efficientnet import EfficientNetBNFeatures
from torch import Tensor, nn
from torch.nn import functional

from medfuse.builtin.nets.layers import CONVOLUTION

CHANNELS_PER_GROUP = 8
EPS, MOMENTUM = 1e-3, 0.01  # of batch norm in the original


def efficientnet(
    size: str, channels_in: int, dims: int, *, norm: Literal["batch", "instance", "group"]
) -> nn.Module:
    """x → one map per stride, finest first."""
    network: Any = EfficientNetBNFeatures(
        f"efficientnet-{size}",
        pretrained=False,
        spatial_dims=dims,
        in_channels=channels_in,
        norm=("batch", {"eps": EPS, "momentum": MOMENTUM}),
    )
    for unused in ("_conv_head", "_conv_head_padding", "_bn1", "_fc"):
        delattr(network, unused)
    network.set_swish(memory_efficient=False)  # which can be traced and exported
    _pad_as_needed(network, "_conv_stem", dims)
    for block in network._blocks.modules():
        if hasattr(block, "_depthwise_conv"):
            _pad_as_needed(block, "_depthwise_conv", dims)
    if norm != "batch":
        _replace_norms(network, norm)
    made: nn.Module = network
    return made


class SamePadding(nn.Module):
    """Zeros around x, so that a convolution of `kernel` and `stride` makes ⌈n / stride⌉ voxels of n.

    MONAI's own are fixed for ImageNet's image sizes.
    """

    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        padding: list[int] = []
        for n, k, s in list(zip(x.shape[2:], self.kernel, self.stride))[::-1]:
            total = max(0, (-(-n // s) - 1) * s + k - n)
            padding += [total // 2, total - total // 2]
        return functional.pad(x, padding)


def _pad_as_needed(module: Any, name: str, dims: int) -> None:
    convolution = getattr(module, name)
    assert isinstance(convolution, CONVOLUTION[dims])
    setattr(module, f"{name}_padding", SamePadding(convolution.kernel_size, convolution.stride))


def _replace_norms(module: nn.Module, norm: Literal["instance", "group"]) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
            channels = child.num_features
            groups = channels // CHANNELS_PER_GROUP if norm == "group" else channels
            setattr(module, name, nn.GroupNorm(groups, channels, eps=EPS))
        else:
            _replace_norms(child, norm)
