"""Which of all that a network's layers make are its blocks, and which are its last maps."""

from medfuse.api import FeatureInfo, TokenLayout
from medfuse.model.blocks import blocks_of, last_by_stride


def tokens(*names: str, channels: int = 8) -> list[FeatureInfo]:
    return [FeatureInfo(name, channels, (8, 8), tokens=TokenLayout(1)) for name in names]


def maps(**strides: int) -> list[FeatureInfo]:
    return [FeatureInfo(name, 4, (stride, stride)) for name, stride in strides.items()]


def test_blocks_are_equal_layers_of_one_list_and_not_those_inside_them():
    outer = tokens("net.blocks.0", "net.blocks.1")
    inner = tokens(*(f"net.blocks.{n}.mlp.{m}" for n in range(2) for m in range(4)))
    wider = tokens("heads.0", channels=4) + tokens("heads.1", "heads.2")
    assert blocks_of([*inner, *wider, *outer]) == outer
    assert blocks_of(wider) == []


def test_a_block_that_returns_several_tensors_is_tapped_at_the_first_that_is_a_map():
    made = tokens("blocks.0[0]", "blocks.0[1]", "blocks.0.norm", "blocks.1[0]", "blocks.1[1]")
    assert [block.name for block in blocks_of(made)] == ["blocks.0[0]", "blocks.1[0]"]


def test_calls_of_a_block_and_lists_with_a_gap_are_none():
    assert blocks_of(tokens("blocks.0", "blocks.0#1", "blocks.2")) == []


def test_the_last_maps_are_those_of_halvings_and_no_tokens():
    made = [*maps(a=2, b=2, c=4, d=3), *tokens("blocks.0")]
    assert [feature.name for feature in last_by_stride(made)] == ["b", "c"]
    assert [feature.name for feature in last_by_stride(maps(a=3, b=3))] == ["b"]
