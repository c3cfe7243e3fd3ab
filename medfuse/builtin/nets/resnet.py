"""MONAI's ResNet, with the normalisation that is asked for throughout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from monai.networks.nets import resnet as monai_resnet
from torch import nn

GROUPS = 32  # Wu & He 2018


def resnet(
    *,
    block: Literal["basic", "bottleneck"],
    blocks: Sequence[int],
    planes: Sequence[int],
    channels: int,
    conv1_stride: Sequence[int],
    max_pool: bool,
    norm: Literal["batch", "instance", "group"],
) -> nn.Module:
    """A MONAI ResNet without classifier, for images of `channels`; one number per axis in `conv1_stride`."""
    made: Any = monai_resnet.ResNet(
        block=block,
        layers=list(blocks),
        block_inplanes=list(planes),
        spatial_dims=len(conv1_stride),
        n_input_channels=channels,
        conv1_t_stride=tuple(conv1_stride),
        no_max_pool=not max_pool,
        feed_forward=False,
        bias_downsample=False,
    )
    if not max_pool:
        made.maxpool = nn.Identity()
        made.no_max_pool = False  # so that every layer runs, and the network is a chain of them
    network: nn.Module = made
    if norm != "batch":
        _replace_norms(network, norm)
    return network


def _replace_norms(module: nn.Module, norm: Literal["instance", "group"]) -> None:
    """MONAI gives its `norm` to the stem alone and batch norm to every block."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
            channels = child.num_features
            if norm == "group":
                setattr(module, name, nn.GroupNorm(GROUPS, channels))
            else:
                kind = nn.InstanceNorm2d if isinstance(child, nn.BatchNorm2d) else nn.InstanceNorm3d
                setattr(module, name, kind(channels, affine=True))
        else:
            _replace_norms(child, norm)
