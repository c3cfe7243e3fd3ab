"""What a network of timm offers: the maps that it lists, or those that people tap where it lists none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from torch import nn

from medfuse import FeatureInfo, ImageInfo, KnownTokens
from medfuse.model.blocks import blocks_of, declared, in_order, last_by_stride
from medfuse.model.layers import find_layers
from medfuse.model.pictured import POOLED
from medfuse.model.pictures import Normalization, refuse_rest
from medfuse.model.trial import try_out
from medfuse_timm.net import build


def find_features(
    name: str,
    parameters: Mapping[str, Any],
    channels: int,
    normalization: Normalization | None,
    image: ImageInfo,
) -> Sequence[FeatureInfo]:
    """Finest first, then as they run. Raises ShapeError where the network cannot see such an image."""
    return _found(name, json.dumps(dict(parameters), sort_keys=True), channels, normalization, image)


@lru_cache(maxsize=64)
def _found(
    name: str, parameters: str, channels: int, normalization: Normalization | None, image: ImageInfo
) -> tuple[FeatureInfo, ...]:
    def make() -> nn.Module:
        return build(name, json.loads(parameters), channels, normalization, image)

    listed, unit = try_out(make, lambda network: (_listed(network.network), _unit(network.network)))
    refuse_rest(image, unit)
    ran = in_order(find_layers(make, image, known=KnownTokens(patch_size=unit) if unit else None))
    offered = [feature for one in ran if (feature := one.feature())]
    features = [feature for feature in offered if feature.name in listed]
    features = features or blocks_of(offered) or last_by_stride(offered)
    whole = [feature for feature in offered if feature.name == POOLED and feature.image_level]
    return declared(
        [*features, *whole] if features else [],
        whose=f"timm's {name}",
        asked=[one for one in ran if one.name in listed],
    )


def _listed(network: Any) -> set[str]:
    """The layers that timm's own list of features names."""
    said = getattr(network, "feature_info", ())
    entries = getattr(said, "info", said)
    return {f"network.{one['module']}" for one in entries if isinstance(one, Mapping) and one.get("module")}


def _unit(network: Any) -> tuple[int, ...] | None:
    """The patches that an image is cut into without a rest; None where it is not cut into such."""
    embedding = getattr(network, "patch_embed", None)
    size = getattr(embedding, "patch_size", None) if hasattr(embedding, "strict_img_size") else None
    return tuple(size) if isinstance(size, list | tuple) else None
