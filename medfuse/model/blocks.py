"""Of all that a network's layers make, what people tap: the outputs of its blocks, or its last maps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from medfuse.core.errors import ShapeError
from medfuse.core.features import FeatureInfo

if TYPE_CHECKING:
    from medfuse.model.layers import Layer

_BLOCK = re.compile(r"(?:(?P<list>[^\[\]#]*)\.)?(?P<number>\d+)(\[[^\[\]]+\])*")


def in_order(layers: Sequence[Layer]) -> list[Layer]:
    """Those that ran, each under its first name, by the end of the last time."""
    ran = [one for one in layers if one.name and not one.same_as and one.order >= 0]
    return sorted(ran, key=lambda one: one.order)


def blocks_of(made: Sequence[FeatureInfo]) -> list[FeatureInfo]:
    """The longest list of equal layers, tokens before others; nothing where there is none.

    Lists inside a block are none.
    """
    equal = {name: blocks for name, blocks in lists_of(made).items() if len({*map(_kind, blocks)}) == 1}
    outer = [blocks for name, blocks in equal.items() if not _is_inside(name, equal)]
    return max(outer, key=lambda blocks: (_is_transformers(blocks[0]), len(blocks)), default=[])


def lists_of(made: Sequence[FeatureInfo]) -> dict[str, list[FeatureInfo]]:
    """What layers make that are numbered from 0 without a gap, by the path of what holds them.

    Of a block that returns several tensors it is the first that is a map.
    """
    found: dict[str, dict[int, FeatureInfo]] = {}
    for feature in made:
        if (match := _BLOCK.fullmatch(feature.name)) and not feature.image_level:
            found.setdefault(match["list"] or "", {}).setdefault(int(match["number"]), feature)
    return {
        name: [blocks[n] for n in range(len(blocks))]
        for name, blocks in found.items()
        if [*range(len(blocks))] == sorted(blocks)
    }


def is_block(name: str) -> bool:
    """Whether a layer is numbered, as those of a list are."""
    return _BLOCK.fullmatch(name) is not None


def path_of(block: FeatureInfo) -> str:
    """The layer's own name, where what is tapped is an element of what it returns."""
    return block.name.partition("[")[0]


def last_by_stride(made: Sequence[FeatureInfo]) -> list[FeatureInfo]:
    """The last map of each stride that halvings make, or of each at all; no tokens, no pooled outputs."""
    last = {one.stride: one for one in made if not (one.tokens or one.image_level)}
    halved = [one for stride, one in last.items() if not any(s & (s - 1) for s in stride)]
    return halved or [*last.values()]


def declared(
    features: Sequence[FeatureInfo], *, whose: str, asked: Iterable[Layer]
) -> tuple[FeatureInfo, ...]:
    """What a backbone declares: finest first, then as they run.

    Raises ShapeError where there are none, with the reason of the first of the layers `asked` that has one.
    """
    if not features:
        why = next((f": {layer.name} {layer.reason}" for layer in asked if layer.reason), "")
        raise ShapeError(f"{whose} makes no map that can be tapped{why}")
    return tuple(sorted(features, key=lambda feature: feature.coarseness))


def _kind(feature: FeatureInfo) -> object:
    return feature.channels, feature.stride, feature.channels_last, feature.tokens


def _is_inside(name: str, lists: Mapping[str, Sequence[FeatureInfo]]) -> bool:
    """Whether a list lies within a block of another one."""
    return any(name.startswith(f"{path_of(block)}.") for blocks in lists.values() for block in blocks)


def _is_transformers(feature: FeatureInfo) -> bool:
    return feature.tokens is not None or feature.channels_last
