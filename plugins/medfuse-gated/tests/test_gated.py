"""`gated` keeps medfuse's contract and its paper's formula."""

import pytest
import torch
from medfuse_gated import Gated

from medfuse import FeatureInfo, ShapeError
from medfuse.testing import check_fusion_block

FLAT = [FeatureInfo("a", 4, (2, 2)), FeatureInfo("b", 6, (2, 2))]
SOLID = [FeatureInfo(name, channels, (2, 2, 1)) for name, channels in (("a", 4), ("b", 6), ("c", 1))]


def plugin(inputs, **parameters):
    return Gated(inputs=tuple(x.name for x in inputs), **parameters)


def maps(inputs):
    torch.manual_seed(0)
    return [torch.randn(2, x.channels, *[8] * x.dims) for x in inputs]


@pytest.mark.parametrize("per", ["channel", "voxel"])
@pytest.mark.parametrize("inputs", [FLAT, SOLID])
def test_the_contract_is_kept(inputs, per):
    check_fusion_block(plugin(inputs, channels=5, per=per), inputs)


@pytest.mark.parametrize(("bias", "chosen"), [(100.0, 0), (-100.0, 1)])
def test_the_gate_of_two_maps_chooses_between_them(bias, chosen):
    block, given = plugin(FLAT).build(FLAT), maps(FLAT)
    torch.nn.init.constant_(block.gate.bias, bias)
    assert torch.allclose(block(*given), torch.tanh(block.proposals[chosen](given[chosen])))


def test_more_maps_are_let_through_each_by_its_own_gate():
    block, given = plugin(SOLID, channels=5).build(SOLID), maps(SOLID)
    torch.nn.init.constant_(block.gate.bias, 100.0)
    proposals = [torch.tanh(propose(x)) for propose, x in zip(block.proposals, given, strict=True)]
    assert torch.allclose(block(*given), sum(proposals))


def test_one_gate_per_voxel_has_fewer_weights():
    per_channel, per_voxel = (plugin(FLAT, channels=5, per=per).build(FLAT) for per in ("channel", "voxel"))
    assert (per_channel.gate.out_channels, per_voxel.gate.out_channels) == (5, 1)


def test_a_single_map_is_refused():
    with pytest.raises(ShapeError, match="two or more"):
        plugin(FLAT[:1]).plan(FLAT[:1])
