"""dynamic-network-architectures' encoder is what the plugin declares."""

import sys

import pytest
import torch
from medfuse_dynamic import ResidualEncoder
from pydantic import ValidationError

from medfuse import ImageInfo, PluginError, ShapeError

SLICES = ImageInfo(channels=1, patch_size=(32, 32), spacing_mm=(1.0, 1.0))
THICK = ImageInfo(channels=2, patch_size=(32, 32, 8), spacing_mm=(1.0, 1.0, 4.5))


@pytest.fixture
def dynamic():
    return pytest.importorskip(
        "dynamic_network_architectures.building_blocks.residual_encoders",
        reason="dynamic-network-architectures is not installed",
    )


@pytest.mark.parametrize("image", [SLICES, THICK])
def test_the_contract_is_kept(dynamic, image):
    from medfuse.testing import check_backbone

    check_backbone(ResidualEncoder(base_channels=4), image)


def test_its_tensors_have_the_names_of_nnunets(dynamic):
    names = ResidualEncoder(base_channels=4).build(THICK).state_dict()
    assert "stem.convs.0.conv.weight" in names
    assert "stages.0.blocks.0.conv1.conv.weight" in names


def test_on_even_sizes_it_is_what_the_package_makes(dynamic, monkeypatch):
    ours = ResidualEncoder(base_channels=4).build(THICK)
    monkeypatch.setattr("medfuse_dynamic._for_any_size", lambda network: network)
    theirs = ResidualEncoder(base_channels=4).build(THICK)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 2, *THICK.patch_size)
    assert torch.equal(ours(x), theirs(x))


def test_it_has_the_blocks_of_the_presets(dynamic):
    network = ResidualEncoder(base_channels=4).build(THICK)
    assert [len(stage.blocks) for stage in network.stages] == [1, 3, 4, 6]


def test_depth_and_strides_are_nnunets():
    strides = [f.stride for f in ResidualEncoder().features(THICK)]
    assert strides == [(1, 1, 1), (2, 2, 1), (4, 4, 1), (8, 8, 2)]


def test_channels_double_up_to_nnunets_limit():
    features = ResidualEncoder(base_channels=128).features(THICK)
    assert [f.channels for f in features] == [128, 256, 320, 320]


def test_lists_have_an_entry_for_each_stage():
    with pytest.raises(ShapeError, match="channels has 2 entries for 4 stages"):
        ResidualEncoder(channels=(4, 8)).features(THICK)


def test_an_even_kernel_is_refused():
    with pytest.raises(ValidationError, match="odd number"):
        ResidualEncoder(kernels=(2, 3))


def test_without_the_package_it_says_what_to_install(monkeypatch):
    for name in ("dynamic_network_architectures", "dynamic_network_architectures.building_blocks"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PluginError, match="pip install medfuse-dynamic"):
        ResidualEncoder().build(THICK)
