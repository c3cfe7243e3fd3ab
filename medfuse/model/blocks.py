"""Of all layers of a network that nobody described, those that people tap: its blocks, or its last maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
