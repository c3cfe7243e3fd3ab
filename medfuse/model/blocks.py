"""Of all layers of a network that nobody described, those that people tap: its blocks, or its last maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from medfuse.core.errors import ShapeError
from medfuse.core.features import FeatureInfo
from medfuse.model.layers import Layer


def in_order(layers: Sequence[Layer]) -> list[Layer]:
    """Those that ran, each under its first name, by the end of the last time."""
    ran = [one for one in layers if one.name and not one.same_as and one.order >= 0]
    return sorted(ran, key=lambda one: one.order)


def blocks_of(ran: Sequence[Layer]) -> list[Layer]:
    """The longest list of layers that make maps of one kind; of equally long ones the outermost."""
    lists: dict[tuple[Any, ...], list[Layer]] = {}
    for layer in ran:
        home, _, number = layer.name.removesuffix("[0]").rpartition(".")
        if number.isdecimal() and layer.stride and not layer.image_level:
            lists.setdefault((home, layer.map_size[0], layer.stride), []).append(layer)
    longest = sorted(lists.items(), key=lambda item: (-len(item[1]), item[0][0].count("."), item[0][0]))
    return longest[0][1] if longest else []


def last_by_stride(ran: Sequence[Layer]) -> list[Layer]:
    """The last map of each stride that halvings make, or of each at all; no tokens, no pooled outputs."""
    last = {one.stride: one for one in ran if one.stride and not (one.tokens or one.image_level)}
    halved = [one for stride, one in last.items() if not any(s & (s - 1) for s in stride)]
    return halved or [*last.values()]


def features_of(chosen: Sequence[Layer], *, whose: str, wanted: Iterable[Layer]) -> tuple[FeatureInfo, ...]:
    """What a backbone declares of the layers that are chosen: finest first, then as they run.

    Raises ShapeError where none makes a map, with the reason of the first of `wanted` that has one.
    """
    features = [feature for layer in chosen if (feature := layer.feature())]
    if not features:
        why = next((f": {layer.name} {layer.reason}" for layer in wanted if layer.reason), "")
        raise ShapeError(f"{whose} makes no map that can be tapped{why}")
    return tuple(sorted(features, key=lambda feature: feature.coarseness))
