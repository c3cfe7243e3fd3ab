"""What a U-Net decoder is given stage by stage."""

import pytest

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


@pytest.mark.parametrize("parameters", [{"kernels": [3]}, {"convs": [1, 2, 3]}])
def test_there_is_one_for_each_stage(parameters):
    with pytest.raises(ShapeError, match="for 2 stages; give one per stage"):
        decoder(**parameters).plan(MAPS)
