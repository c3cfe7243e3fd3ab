"""What a network offers: blocks that are alike, AutoBackbone's stages, or the last map of each stride."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from medfuse import FeatureInfo, ImageInfo, KnownTokens, ShapeError
from medfuse.model.blocks import blocks_of, declared, in_order, last_by_stride
from medfuse.model.layers import find_layers
from medfuse.model.pictured import POOLED
from medfuse.model.pictures import Normalization, refuse_rest
from medfuse.model.tokens import tokens_in_front
from medfuse.model.trial import try_out
from medfuse_huggingface.configs import made
from medfuse_huggingface.net import build, is_even, stages_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig


def find_features(
    said: dict[str, Any], normalization: Normalization | None, image: ImageInfo
) -> Sequence[FeatureInfo]:
    """Finest first, then as they run. Raises ShapeError where the network cannot see such an image."""
    return _found(json.dumps(said, sort_keys=True), normalization, image)


@lru_cache(maxsize=64)
def _found(said: str, normalization: Normalization | None, image: ImageInfo) -> tuple[FeatureInfo, ...]:
    config = made(json.loads(said))
    unit = unit_of(config)
    refuse_rest(image, unit)
    known = KnownTokens(patch_size=unit) if is_even(config) else None

    def network() -> nn.Module:
        return build(json.loads(said), normalization, image)

    try:
        ran, stages = in_order(find_layers(network, image, known=known)), stages_of(config)
    except ShapeError as error:
        _name_own_size(config, said, normalization, image, error)
        raise
    offered = [feature for one in ran if (feature := one.feature())]
    if is_even(config):
        features = blocks_of(offered)
    elif stages:
        features = [feature for feature in offered if feature.name in stages]
    else:
        features = last_by_stride(offered)
    _refuse_tokens_behind(features, try_out(network, tokens_in_front))
    asked = [one for one in ran if one.name in stages] or ran
    whole = [feature for feature in offered if feature.name == POOLED and feature.image_level]
    return declared([*features, *whole] if features else [], whose=f"a {config.model_type}", asked=asked)


def _name_own_size(
    config: PreTrainedConfig,
    said: str,
    normalization: Normalization | None,
    image: ImageInfo,
    error: ShapeError,
) -> None:
    """Raises `error` with the size that the network was made for, where it runs on that one."""
    own = getattr(config, "image_size", None)
    size = (own, own) if isinstance(own, int) else tuple(own or ())
    if len(size) != len(image.patch_size) or size == image.patch_size:
        return
    try:
        _found(said, normalization, replace(image, patch_size=size))
    except ShapeError:
        return
    raise ShapeError(
        f"{error}; on {[*size]}, the size that this {config.model_type} was made for, it runs: make "
        "`sample.patch_size` that along its two axes"
    ) from error


def _refuse_tokens_behind(features: Sequence[FeatureInfo], in_front: int) -> None:
    """Raises ShapeError where more tokens have no place than stand in front of those that have."""
    for feature in features:
        if feature.tokens and in_front and feature.tokens.prefix > in_front:
            raise ShapeError(
                f"{feature.name} makes {feature.tokens.prefix} tokens that have no place, and {in_front} of "
                "them stand in front; name a network that has all of them there"
            )


def unit_of(config: PreTrainedConfig) -> tuple[int, ...] | None:
    """What an image's sides must be multiples of; None where any will do."""
    if config.model_type == "hiera":
        units = zip(config.patch_stride, config.masked_unit_size, strict=True)
        return tuple(stride * unit for stride, unit in units)
    said = getattr(config, "patch_size", None) if is_even(config) else None
    if isinstance(said, int):
        return (said, said)
    return tuple(said) if isinstance(said, list | tuple) else None
