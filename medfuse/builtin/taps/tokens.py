"""Taps of a transformer's blocks, by their numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from medfuse import FeatureInfo, ImageInfo, KnownTokens, ShapeError, TapStrategy
from medfuse.core.text import listed
from medfuse.model.blocks import blocks_of, is_block, lists_of, path_of

if TYPE_CHECKING:
    from torch import nn

PRESETS = ("quarter", "last4")
_OF_DEPTH = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23), 40: (9, 19, 29, 39)}


def _entries(value: Any) -> Any:
    """`quarter`, a number or a list of these as texts, numbers in the order of the blocks."""
    entries = [value] if isinstance(value, str) or _is_number(value) else value
    if not isinstance(entries, list | tuple):
        return value
    if all(map(_is_number, entries)):
        entries = sorted(entries)
    return [str(entry) if _is_number(entry) else entry for entry in entries]


def _is_number(entry: Any) -> bool:
    return isinstance(entry, int) and not isinstance(entry, bool)


_ENTRY = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}
_Entries = Annotated[
    tuple[str, ...],
    BeforeValidator(_entries),
    WithJsonSchema({"anyOf": [{"type": "array", "items": _ENTRY, "minItems": 1}, *_ENTRY["anyOf"]]}),
]
PatchSize = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=2, max_length=3)]


class Tokens(TapStrategy):
    """Blocks of a transformer by their numbers, each after the network's final norm, as DINO's and timm's.

    The blocks are the longest list of equal layers that make tokens. `quarter`: 2, 5, 8, 11 of 12 blocks; 4,
    11, 17, 23 of 24; 9, 19, 29, 39 of 40; of n blocks round(n·k/4) - 1. The tokens of a block become a map of
    the patch grid, without class and register tokens. Taps are named after the blocks: `encoder.blocks.2`.

        taps:
          encoder: {use: tokens, layers: quarter}
          other: {use: tokens, layers: [2, 5, 8, 11], blocks: vit.blocks, norm: false, attention: mean}
    """

    layers: _Entries = Field(
        ("quarter",),
        min_length=1,
        description="`quarter`, `last4`, or a list of blocks by their numbers from 0, or of layers by module "
        "path or glob",
    )
    blocks: str | None = Field(
        None, description="the list of blocks, by its module path or a glob; found where it is not given"
    )
    norm: bool = Field(
        True,
        description="whether blocks pass the norm that the network has behind its last block, if it has one",
    )
    prefix: int | None = Field(
        None, ge=0, description="tokens before those of places, such as class tokens; found where not given"
    )
    patch_size: Annotated[int, Field(ge=1)] | PatchSize | None = Field(
        None, description="voxels of a token's place, one number or one per axis; found where not given"
    )
    attention: Literal["mean", "heads"] | None = Field(
        None,
        description="also offer what each block attends to, by head or their mean, as BLOCK[attention]: what "
        "the class token asks of each place or, without one, all places on average",
    )

    def choose(self, layer: str, offered: Sequence[FeatureInfo]) -> Sequence[FeatureInfo]:
        if layer not in PRESETS and not layer.isdigit():
            return super().choose(layer, offered)
        blocks = find_blocks(offered, self.blocks)
        numbers = numbers_of(layer, len(blocks))
        if numbers[-1] >= len(blocks):
            raise ShapeError(f"has {len(blocks)} blocks, numbered from 0, and none is {layer}")
        return [blocks[number] for number in numbers]

    def further(
        self, chosen: Sequence[FeatureInfo], build: Callable[[], nn.Module], image: ImageInfo
    ) -> Sequence[FeatureInfo]:
        if self.attention is None:
            return ()
        from medfuse.builtin.nets.attended import attention_of

        blocks = [feature for feature in chosen if is_block(feature.name)]
        return attention_of(build, blocks, image, per_head=self.attention == "heads")

    def known_tokens(self) -> KnownTokens:
        return KnownTokens(self.prefix, self.patch_size)

    def attach(self, backbone: nn.Module, taps: Sequence[FeatureInfo], image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.tokens import tap_blocks

        return tap_blocks(backbone, taps, image, norm=self.norm, per_head=self.attention == "heads")


def numbers_of(layer: str, depth: int) -> list[int]:
    """The blocks, of `depth`, that a preset or a number means, in their order."""
    if layer == "quarter":
        quarters = _OF_DEPTH.get(depth) or [round(depth * k / 4) - 1 for k in (1, 2, 3, 4)]
        return sorted({n for n in quarters if n >= 0})
    if layer == "last4":
        return [*range(max(0, depth - 4), depth)]
    return [int(layer)]


def find_blocks(offered: Sequence[FeatureInfo], path: str | None) -> list[FeatureInfo]:
    """The blocks of a transformer, or those at `path`, each by its layer's name. Raises ShapeError."""
    if path is None:
        found = blocks_of(offered)
        if not found:
            raise ShapeError(
                "has no list of equal layers that make tokens; declare where its blocks are: "
                "{use: tokens, blocks: PATH}"
            )
    else:
        lists = lists_of(offered)
        found = [block for name in lists if fnmatchcase(name, path) for block in lists[name]]
        if not found:
            known = f" (lists of layers that make maps: {listed([*lists])})" if lists else ""
            raise ShapeError(f"has no list of blocks at {path!r} whose layers make maps{known}")
    return [block.named(path_of(block)) for block in found]
