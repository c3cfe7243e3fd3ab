"""The blocks of a transformer, found among the features that its layers make, and which of them are taken."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from medfuse.core.errors import ShapeError
from medfuse.core.features import FeatureInfo
from medfuse.core.text import listed

PRESETS = ("quarter", "last4")
_OF_DEPTH = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23), 40: (9, 19, 29, 39)}
_BLOCK = re.compile(r"(?:(?P<list>[^\[\]#]*)\.)?(?P<number>\d+)(?P<place>(\[[^\[\]]+\])*)")


def numbers_of(layer: str, depth: int) -> list[int]:
    """The blocks, of `depth`, that a preset or a number means, in their order."""
    if layer == "quarter":
        quarters = _OF_DEPTH.get(depth) or [round(depth * k / 4) - 1 for k in (1, 2, 3, 4)]
        return sorted({n for n in quarters if n >= 0})
    if layer == "last4":
        return [*range(max(0, depth - 4), depth)]
    return [int(layer)]


def find_blocks(offered: Sequence[FeatureInfo], path: str | None) -> list[FeatureInfo]:
    """The longest list of equal layers, tokens before others, or those at `path`; each by its layer's name.

    Lists inside a block are none. Raises ShapeError.
    """
    lists = _lists(offered)
    if path is not None:
        named = [name for name in lists if fnmatchcase(name, path)]
        if not named:
            known = f" (lists of layers that make maps: {listed([*lists])})" if lists else ""
            raise ShapeError(f"has no list of blocks at {path!r} whose layers make maps{known}")
        return [block for name in named for block in lists[name]]
    equal = {name: blocks for name, blocks in lists.items() if len({*map(_kind, blocks)}) == 1}
    outer = {name: blocks for name, blocks in equal.items() if not _is_inside(name, equal)}
    if not outer:
        raise ShapeError(
            "has no list of equal layers that make tokens; declare where its blocks are: "
            "{use: tokens, blocks: PATH}"
        )
    return max(outer.values(), key=lambda blocks: (_is_transformers(blocks[0]), len(blocks)))


def is_block(name: str) -> bool:
    """Whether a layer is numbered, as those of a list are."""
    return _BLOCK.fullmatch(name) is not None


def _lists(offered: Sequence[FeatureInfo]) -> dict[str, list[FeatureInfo]]:
    """Layers that are numbered from 0 without a gap, by the path of what holds them.

    A block that returns several tensors counts by the first of them that is a map.
    """
    found: dict[str, dict[int, FeatureInfo]] = {}
    for feature in offered:
        if (match := _BLOCK.fullmatch(feature.name)) and not feature.image_level:
            head = feature.name.removesuffix(match["place"])
            blocks = found.setdefault(match["list"] or "", {})
            blocks.setdefault(int(match["number"]), feature.named(head))
    return {
        name: [blocks[n] for n in range(len(blocks))]
        for name, blocks in found.items()
        if [*range(len(blocks))] == sorted(blocks)
    }


def _kind(feature: FeatureInfo) -> object:
    return feature.channels, feature.stride, feature.channels_last, feature.tokens


def _is_inside(name: str, lists: Mapping[str, Sequence[FeatureInfo]]) -> bool:
    """Whether a list lies within a block of another one."""
    return any(name.startswith(f"{block.name}.") for blocks in lists.values() for block in blocks)


def _is_transformers(feature: FeatureInfo) -> bool:
    return feature.tokens is not None or feature.channels_last
