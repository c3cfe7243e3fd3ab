"""MONAI's EfficientNet without its head, padded for the image it is given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from monai.networks.nets.efficientnet import EfficientNetBNFeatures
from torch import Tensor, nn
from torch.nn import functional

from medfuse.builtin.nets.layers import CONVOLUTION
from medfuse.core.errors import CheckpointError
from medfuse.model.checkpoints import read_plain

CHANNELS_PER_GROUP = 8
COLOURS = 3
EPS, MOMENTUM = 1e-3, 0.01  # of batch norm in the original


def efficientnet(
    size: str,
    channels_in: int,
    dims: int,
    *,
    norm: Literal["batch", "instance", "group"],
    of_unit_range: bool = False,
) -> nn.Module:
    """x → one map per stride, finest first. `of_unit_range`: x goes from 0 to 1, as pictures do."""
    network: Any = EfficientNetBNFeatures(
        f"efficientnet-{'b0' if size == 'lite0' else size}",
        pretrained=False,
        spatial_dims=dims,
        in_channels=channels_in,
        norm=("batch", {"eps": EPS, "momentum": MOMENTUM}),
    )
    for unused in ("_conv_head", "_conv_head_padding", "_bn1", "_fc"):
        delattr(network, unused)
    network.set_swish(memory_efficient=False)  # which can be traced and exported
    if size == "lite0":
        _lighten(network)
    _pad_as_needed(network, "_conv_stem", dims)
    for block in network._blocks.modules():
        if hasattr(block, "_depthwise_conv"):
            _pad_as_needed(block, "_depthwise_conv", dims)
    if norm != "batch":
        _replace_norms(network, norm)
    if of_unit_range:
        network._conv_stem_padding = nn.Sequential(AsPictures(), network._conv_stem_padding)
    made: nn.Module = network
    return made


def lite_weights(path: Path, channels: int) -> Mapping[str, Tensor]:
    """The tensors of a file of `lite0` by the names that MONAI's network has, without those of its head.

    For one channel the first convolution is summed over the colours: what a grey picture gives.
    Raises CheckpointError.
    """
    read = read_plain(path)
    known = {*efficientnet("lite0", COLOURS, 2, norm="batch").state_dict()}
    numbers = (re.match(r"_blocks\.(\d+)\.(\d+)\.", name) for name in known)
    stages = {found[2]: found[1] for found in numbers if found}
    renamed = {
        re.sub(r"^_blocks\.(\d+)\.", lambda m: f"_blocks.{stages.get(m[1])}.{m[1]}.", name): tensor
        for name, tensor in read.items()
    }
    if missing := known - {*renamed}:
        raise CheckpointError(f"{path}: has no {sorted(missing)[0]}; install the package again")
    taken = {name: renamed[name] for name in known}
    if channels == 1:
        taken["_conv_stem.weight"] = taken["_conv_stem.weight"].sum(1, keepdim=True)
    return taken


class AsPictures(nn.Module):
    """Grey values of 0 to 1 as the network was shown them: (255 x - 127) / 128."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (255 / 128) - 127 / 128


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


def _lighten(network: nn.Module) -> None:
    """EfficientNet-Lite: without squeeze-and-excitation, and ReLU6 in place of swish."""
    modules: list[Any] = [*network.modules()]
    for module in modules:
        if hasattr(module, "_swish"):
            module._swish = nn.ReLU6()
        if getattr(module, "has_se", False):
            module.has_se = False
            for name in [name for name, _ in module.named_children() if name.startswith("_se_")]:
                delattr(module, name)


def _replace_norms(module: nn.Module, norm: Literal["instance", "group"]) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
            channels = child.num_features
            groups = channels // CHANNELS_PER_GROUP if norm == "group" else channels
            setattr(module, name, nn.GroupNorm(groups, channels, eps=EPS))
        else:
            _replace_norms(child, norm)
