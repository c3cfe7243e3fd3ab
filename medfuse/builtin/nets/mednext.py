"""MONAI's MedNeXt without its decoder."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.mednext import MedNeXt
from torch import nn


def mednext_encoder(
    channels_in: int,
    dims: int,
    *,
    channels: int,
    blocks: Sequence[int],
    expansions: Sequence[int],
    kernel: int,
    global_response_norm: bool = False,
) -> nn.Module:
    """x → the bottleneck's map. `blocks` and `expansions` are of each stage, the bottleneck last."""
    network: nn.Module = MedNeXt(
        spatial_dims=dims,
        init_filters=channels,
        in_channels=channels_in,
        encoder_expansion_ratio=list(expansions[:-1]),
        decoder_expansion_ratio=[],
        bottleneck_expansion_ratio=expansions[-1],
        kernel_size=kernel,
        use_residual_connection=True,
        global_resp_norm=global_response_norm,
        blocks_down=tuple(blocks[:-1]),
        blocks_bottleneck=blocks[-1],
        blocks_up=(),
    )
    network.out_0 = nn.Identity()  # it would take the finest map
    return network
