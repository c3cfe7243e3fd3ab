"""Blocks of transformers by number, by preset and by name, each after the final norm."""

import copy
import pickle

import pytest
import torch
from vits import Pairs, ViT

from medfuse import registry
from medfuse.api import FeatureInfo, ImageInfo, TapStrategy, TokenLayout
from medfuse.builtin.taps.tokens import find_blocks, numbers_of
from medfuse.core.errors import PipelineError, ShapeError
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.model.verify import verify
from medfuse.testing import check_tap_strategy

IMAGE = ImageInfo(1, (32, 48), (1.0, 1.0))


def strategy(**parameters) -> TapStrategy:
    return registry.get(TapStrategy.group, "tokens").model_validate(parameters)


def planned(taps: dict, inputs=("encoder.*",), target="vits:ViT", **parameters):
    settings = {
        "backbones": {"encoder": {"use": "module", "target": target, "parameters": parameters}},
        "taps": {"encoder": {"use": "tokens", **taps}},
        "fusion": {"all": {"use": "concat", "inputs": [*inputs], "channels": 4}},
        "head": {"input": "all"},
    }
    return plan_graph(ModelSettings.model_validate(settings), IMAGE, 2)


def tapped(taps: dict, **more) -> list[str]:
    plan = planned(taps, **more)
    return [tap.name for tap in plan.backbones[0].taps]


@pytest.mark.parametrize(
    ("depth", "quarter"),
    [
        (12, [2, 5, 8, 11]),
        (24, [4, 11, 17, 23]),
        (40, [9, 19, 29, 39]),
        (32, [7, 15, 23, 31]),
        (8, [1, 3, 5, 7]),
        (4, [0, 1, 2, 3]),
        (2, [0, 1]),
        (1, [0]),
    ],
)
def test_a_quarter_is_what_people_take(depth, quarter):
    assert numbers_of("quarter", depth) == quarter


@pytest.mark.parametrize("depth", range(1, 49))
def test_presets_are_blocks_in_their_order_and_end_with_the_last(depth):
    for preset in ("quarter", "last4"):
        numbers = numbers_of(preset, depth)
        assert numbers == sorted({*numbers})
        assert numbers[0] >= 0
        assert numbers[-1] == depth - 1
        assert len(numbers) == min(4, depth)


def blocks(*numbers: int) -> list[str]:
    return [f"blocks.{n}" for n in numbers]


def test_blocks_are_tapped_by_preset_number_name_and_glob():
    assert tapped({}, depth=6) == blocks(1, 2, 3, 5)
    assert tapped({"layers": "last4"}, depth=6) == blocks(2, 3, 4, 5)
    assert tapped({"layers": [5, 0]}, depth=6) == blocks(0, 5)
    assert tapped({"layers": 3}, depth=6) == blocks(3)
    assert tapped({"layers": ["blocks.[12]", "norm"]}, depth=6) == ["blocks.1", "blocks.2", "norm"]


def test_blocks_that_return_more_than_tokens_are_called_by_their_names():
    plan = planned({"layers": [0, 3]}, target="vits:Pairs")
    assert [tap.name for tap in plan.backbones[0].taps] == blocks(0, 3)
    verify(plan)


def test_entries_stay_what_they_are_when_they_are_written_and_read_again():
    for layers in ("quarter", ["last4"], [2, 5], ["blocks.3"]):
        once = strategy(layers=layers)
        assert type(once).model_validate(once.model_dump(mode="json")) == once


@pytest.mark.parametrize(
    ("taps", "words"),
    [
        ({"layers": [1, 9]}, "has 4 blocks, numbered from 0, and none is 9"),
        ({"layers": ["blocs.1"]}, "no layer 'blocs.1'; did you mean 'blocks.1'"),
        (
            {"blocks": "layers"},
            "no list of blocks at 'layers' whose layers make maps (lists of layers that make maps: blocks",
        ),
        ({"layers": "quarter", "prefix": 3}, "declared prefix 3 do not lead"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(taps, words):
    with pytest.raises(PipelineError) as caught:
        planned(taps)
    (problem,) = caught.value.problems
    assert problem.path[:3] == ("model", "taps", "encoder")
    assert words in problem.message


def test_a_block_that_nobody_uses_is_told():
    with pytest.raises(
        PipelineError, match=r"'2' is tapped and never used; remove it, or use encoder.blocks.2"
    ):
        planned({"layers": [1, 2]}, inputs=["encoder.blocks.1"])
    assert tapped({}, inputs=["encoder.blocks.1"]) == blocks(1)  # a preset is an offer


def feature(name: str, channels: int = 8, *, tokens: bool = True) -> FeatureInfo:
    return FeatureInfo(name, channels, (8, 8), tokens=TokenLayout(1) if tokens else None)


def test_the_blocks_are_the_longest_list_of_equal_layers_that_make_tokens():
    inner = [feature(f"blocks.{n}.mlp.{m}") for n in range(2) for m in range(3)]
    convs = [feature(f"stem.{n}", tokens=False) for n in range(9)]
    outer = [feature(f"blocks.{n}") for n in range(2)]
    uneven = [feature(f"stages.{n}", 8 * 2**n) for n in range(5)]
    assert find_blocks([*inner, *convs, *uneven, *outer], None) == outer
    assert find_blocks([*uneven, *outer], "stages") == uneven
    assert find_blocks(convs, None) == convs
    with pytest.raises(ShapeError, match="no list of equal layers"):
        find_blocks(uneven, None)


def attach(network, taps, **parameters):
    return strategy(**parameters).attach(network, taps, IMAGE)


@pytest.mark.parametrize("kind", [ViT, Pairs])
def test_blocks_pass_the_final_norm_or_are_what_they_are(kind):
    torch.manual_seed(0)
    network, x = kind(), torch.randn(2, 1, 32, 48)
    torch.nn.init.normal_(network.norm.weight)
    taps = [feature(f"blocks.{n}", 12) for n in (1, 3)]
    plain = attach(copy.deepcopy(network), taps, norm=False)(x)
    normed = attach(network, taps)(x)
    for name, made in plain.items():
        assert torch.equal(normed[name], network.norm(made))
    assert torch.equal(normed["blocks.3"], network(x))


def test_it_keeps_the_contract():
    check_tap_strategy(strategy(layers=["0", "4"]))


def test_a_network_without_a_final_norm_has_blocks_as_they_are():
    torch.manual_seed(0)
    network, x = ViT(norm=False), torch.randn(2, 1, 32, 48)
    made = attach(network, [feature("blocks.3", 12)])
    assert torch.equal(made(x)["blocks.3"], network(x))
    assert made.notes == ["no norm stands behind its last block that fits blocks.3: taken as made"]


def test_nothing_is_noted_where_the_norm_was_found_or_not_wanted():
    assert not attach(ViT(), [feature("blocks.3", 12)]).notes
    assert not attach(ViT(norm=False), [feature("blocks.3", 12)], norm=False).notes


def test_a_copy_and_a_pickle_do_the_same_and_are_their_own():
    module, x = attach(ViT(), [feature("blocks.2", 12)]), torch.randn(1, 1, 32, 48)
    before = module(x)["blocks.2"]
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x)["blocks.2"], before)
        other.backbone.norm.weight.data.zero_()
        assert torch.equal(module(x)["blocks.2"], before)


@pytest.mark.parametrize("sees", [1, 2])
def test_maps_side_by_side_pass_the_norm_each_by_itself(sees):
    """Of channels that are seen one after the other by a network around the transformer."""
    vit = {"use": "module", "target": "vits:ViT", "parameters": {"channels": sees}}
    settings = {
        "backbones": {"encoder": {"use": "view", "of": vit, "channels": "each", "sees": sees}},
        "taps": {"encoder": {"use": "tokens", "layers": "quarter"}},
        "fusion": {"all": {"use": "concat", "inputs": ["encoder.*"], "channels": 4}},
        "head": {"input": "all"},
    }
    image = ImageInfo(3, IMAGE.patch_size, IMAGE.spacing_mm)
    plan = plan_graph(ModelSettings.model_validate(settings), image, 2)
    torch.manual_seed(0)
    model = build_segmenter(plan).eval().backbones["encoder"]
    x = torch.randn(2, 3, *IMAGE.patch_size, generator=torch.Generator().manual_seed(1))
    norm = model.backbone.get_submodule(model.norm)
    with torch.no_grad():
        made, raw = model(x), model.backbone(x)
        for name, normed in made.items():
            parts = [norm(one.movedim(1, -1)).movedim(-1, 1) for one in raw[name].chunk(3, dim=1)]
            assert torch.equal(normed, torch.cat(parts, dim=1))
            assert not torch.equal(normed, raw[name])
