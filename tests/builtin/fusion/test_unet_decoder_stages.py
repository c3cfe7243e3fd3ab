"""What a U-Net decoder is given stage by stage."""

import pytest
import torch

from medfuse import registry
from medfuse.api import FeatureInfo, FusionBlock
from medfuse.core.errors import ShapeError
from medfuse.testing import check_fusion_block

MAPS = [FeatureInfo("a", 4, (1, 1)), FeatureInfo("b", 8, (2, 2)), FeatureInfo("c", 8, (4, 4))]


def decoder(**parameters) -> FusionBlock:
    return registry.get(FusionBlock.group, "unet_decoder")(inputs=("a", "b", "c"), **parameters)


def test_the_contract_is_kept():
    check_fusion_block(decoder(kernels=[5, [1, 3]], convs=[1, 2]), MAPS)


def test_entries_are_finest_first():
    network = decoder(kernels=[5, [1, 3]], convs=[1, 2]).build(MAPS)
    coarse, fine = network.stages
    assert (len(coarse), coarse[0].conv.kernel_size) == (2, (1, 3))
    assert (len(fine), fine[0].conv.kernel_size) == (1, (5, 5))


@pytest.mark.parametrize("parameters", [{"kernels": [3]}, {"convs": [1, 2, 3]}, {"channels": [8]}])
def test_there_is_one_for_each_stage(parameters):
    with pytest.raises(ShapeError, match="for 2 stages; give one per stage"):
        decoder(**parameters).plan(MAPS)


# ---- channels of a stage, counted by hand

IMAGE = FeatureInfo("a", 1, (1, 1))
NARROW = [IMAGE, *MAPS[1:]]


def shapes(block: FusionBlock, maps) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for name, p in block.build(maps).named_parameters() if name.endswith("weight")]


def made_by(block: FusionBlock, maps) -> list[tuple[str, int]]:
    return [(x.name, x.channels) for x in (block.plan(maps), *block.side_outputs(maps))]


@pytest.mark.parametrize("channels", [None, 1, (1, 8)])
def test_without_channels_a_stage_has_those_of_its_skip(channels):
    block = decoder(convs=1, channels=channels)
    assert made_by(block, NARROW) == [("unet_decoder", 1), ("1", 8)]
    convolutions = [one for one in shapes(block, NARROW) if len(one) > 1]
    assert convolutions == [(8, 8, 2, 2), (8, 1, 2, 2), (8, 16, 3, 3), (1, 2, 3, 3)]


def test_a_number_is_the_fewest_channels_of_a_stage():
    block = decoder(convs=1, channels=6)
    assert made_by(block, NARROW) == [("unet_decoder", 6), ("1", 8)]
    convolutions = [one for one in shapes(block, NARROW) if len(one) > 1]
    assert convolutions == [(8, 8, 2, 2), (8, 6, 2, 2), (8, 8 + 8, 3, 3), (6, 6 + 1, 3, 3)]
    check_fusion_block(block, NARROW)


def test_a_list_has_the_channels_of_each_stage_finest_first():
    block = decoder(convs=1, channels=[3, 5])
    assert made_by(block, NARROW) == [("unet_decoder", 3), ("1", 5)]
    convolutions = [one for one in shapes(block, NARROW) if len(one) > 1]
    assert convolutions == [(8, 5, 2, 2), (5, 3, 2, 2), (5, 5 + 8, 3, 3), (3, 3 + 1, 3, 3)]
    check_fusion_block(block, NARROW[::-1])


@pytest.mark.parametrize("name", ["unet_decoder", "unet_plus_plus"])
@pytest.mark.parametrize("channels", [2, [4, 8]])
def test_channels_that_the_skips_have_anyway_change_no_network(name, channels):
    def built(**parameters):
        torch.manual_seed(0)
        block = registry.get(FusionBlock.group, name)(inputs=("a", "b", "c"), **parameters)
        return block.build(MAPS).state_dict()

    before, after = built(), built(channels=channels)
    assert before.keys() == after.keys()
    assert all(torch.equal(x, after[key]) for key, x in before.items())
