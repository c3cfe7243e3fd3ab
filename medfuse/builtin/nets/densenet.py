"""MONAI's DenseNet, its maps rounded up at odd sizes as padded convolutions do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from monai.networks.nets.densenet import DenseNet
from torch import nn

GROUPS = 32  # Wu & He 2018; every number of channels is a multiple

NORMS: dict[str, Any] = {
    "batch": "batch",
    "instance": ("instance", {"affine": True}),
    "group": ("group", {"num_groups": GROUPS}),
}


def densenet(
    channels_in: int,
    dims: int,
    *,
    stem: int,
    growth: int,
    blocks: Sequence[int],
    norm: Literal["batch", "instance", "group"],
) -> nn.Module:
    """x → the last block's map, normalised."""
    network: nn.Module = DenseNet(
        spatial_dims=dims,
        in_channels=channels_in,
        out_channels=1,
        init_features=stem,
        growth_rate=growth,
        block_config=tuple(blocks),
        norm=NORMS[norm],
    )
    network.class_layers = nn.Identity()
    for module in network.modules():
        if isinstance(module, nn.AvgPool2d | nn.AvgPool3d):
            module.ceil_mode = True
    return network
