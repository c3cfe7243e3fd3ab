"""MONAI's Swin transformer."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from torch import nn

from medfuse.core.errors import PluginError, ShapeError


def swin_encoder(
    channels_in: int,
    dims: int,
    *,
    channels: int,
    depths: Sequence[int],
    heads: Sequence[int],
    window: int,
    v2: bool,
) -> nn.Module:
    """x → five maps, finest first. Raises PluginError where einops is absent, ShapeError for odd heads."""
    if find_spec("einops") is None:
        raise PluginError('swin_unetr needs the package einops; run pip install "medfuse[swin]"')
    for stage, count in enumerate(heads):
        if channels * 2**stage % count:
            raise ShapeError(
                f"swin_unetr: {channels * 2**stage} channels of stage {stage} cannot be parted into {count} "
                "heads; give `channels` that is a multiple"
            )
    from monai.networks.nets.swin_unetr import SwinTransformer

    network: nn.Module = SwinTransformer(
        in_chans=channels_in,
        embed_dim=channels,
        window_size=(window,) * dims,
        patch_size=(2,) * dims,
        depths=tuple(depths),
        num_heads=tuple(heads),
        spatial_dims=dims,
        use_v2=v2,
    )
    return network
