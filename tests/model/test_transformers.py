"""Tokens of transformers' own networks as maps: bit-equal with how these reshape them, and never refused."""

import pytest
import torch

from medfuse import registry
from medfuse.api import FeatureInfo, ImageInfo, TapStrategy
from medfuse.core.names import is_part
from medfuse.model.layers import find_layers
from medfuse.model.places import misplaced

transformers = pytest.importorskip("transformers", reason="pip install transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' and torch's own

SMALL = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "num_channels": 3}
STAGES = {"reshape_hidden_states": True, "out_features": ["stage1", "stage2", "stage3", "stage4"]}
SWIN = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "num_channels": 3}
HIERA = {
    "embed_dim": 8,
    "depths": [1, 2, 2],
    "num_heads": [1, 2, 4],
    "num_channels": 3,
    "num_query_pool": 2,
    "masked_unit_size": [4, 4],
    "masked_unit_attention": [True, True, False],
}


def dinov2():
    config = transformers.Dinov2Config(**SMALL, **STAGES, image_size=56, patch_size=14, drop_path_rate=0.1)
    return transformers.Dinov2Backbone(config)


def dinov2_with_registers():
    config = transformers.Dinov2WithRegistersConfig(**SMALL, **STAGES, image_size=56, patch_size=14)
    return transformers.Dinov2WithRegistersBackbone(config)


def dinov3():
    config = transformers.DINOv3ViTConfig(
        **SMALL, **STAGES, intermediate_size=48, patch_size=8, num_register_tokens=4
    )
    return transformers.AutoBackbone.from_config(config)


def vit():
    config = transformers.ViTConfig(**SMALL, intermediate_size=48, image_size=(32, 48), patch_size=8)
    return transformers.ViTModel(config, add_pooling_layer=False)


def swin():
    return transformers.SwinModel(transformers.SwinConfig(**SWIN, image_size=64))


def hiera():
    config = transformers.HieraConfig(**HIERA, image_size=[64, 64])
    return transformers.HieraModel(config)


NETWORKS = {
    "dinov2": (dinov2, (56, 84)),
    "dinov2_with_registers": (dinov2_with_registers, (56, 84)),
    "dinov3": (dinov3, (32, 48)),
    "vit": (vit, (32, 48)),
    "swin": (swin, (64, 96)),
    "hiera": (hiera, (64, 64)),
}


def made(build):
    torch.manual_seed(0)
    return build().eval()


def image_of(name: str) -> ImageInfo:
    size = NETWORKS[name][1]
    return ImageInfo(3, size, (1.0, 1.0))


def offered(name: str) -> list[FeatureInfo]:
    found = find_layers(NETWORKS[name][0], image_of(name), partial=True)
    return [f for layer in found if layer.name and not layer.same_as and (f := layer.feature())]


@pytest.mark.parametrize("name", ["dinov2", "dinov2_with_registers", "dinov3"])
def test_blocks_after_the_norm_are_what_the_backbone_itself_reshapes(name):
    network, image = made(NETWORKS[name][0]), image_of(name)
    strategy = registry.get(TapStrategy.group, "tokens")(layers=[0, 1, 2, 3])
    taps = [f for layer in strategy.layers for f in strategy.choose(layer, offered(name))]
    x = torch.randn(2, 3, *image.patch_size)
    with torch.no_grad():
        theirs = network(x).feature_maps
        ours = strategy.attach(network, taps, image)(x)
    assert len(theirs) == len(taps) == 4
    for tap, map_ in zip(taps, theirs):
        assert torch.equal(tap.as_map(ours[tap.name], image.patch_size), map_)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("swin", ["encoder.layers.0[0]", "encoder.layers.1[0]"]),
        ("hiera", ["encoder.stages.0[0]", "encoder.stages.1[0]", "encoder.stages.2[0]"]),
    ],
)
def test_stages_are_what_the_network_itself_reshapes(name, layers):
    network, image = made(NETWORKS[name][0]), image_of(name)
    taps = [f for f in offered(name) if f.name in layers]
    x = torch.randn(2, 3, *image.patch_size)
    with torch.no_grad():
        theirs = network(x, output_hidden_states=True).reshaped_hidden_states[1:]
        ours = registry.get(TapStrategy.group, "forward_hook")().attach(network, taps, image)(x)
    assert [tap.name for tap in taps] == layers
    for tap, map_ in zip(taps, theirs):
        first = map_ if map_.shape[1] == tap.channels else map_.movedim(-1, 1)
        assert torch.equal(tap.as_map(ours[tap.name], image.patch_size), first)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_lies_as_the_image_does(name):
    taps = [f for f in offered(name) if f.tokens]
    assert len(taps) > 10
    for tap in taps[:: max(1, len(taps) // 16)]:
        assert not misplaced(NETWORKS[name][0], [tap], image_of(name)), tap


def test_layers_inside_of_windows_are_maps_of_the_grid():
    windows = [f for f in offered("swin") if f.tokens and f.tokens.window]
    assert any(any(f.tokens.shift) for f in windows)
    assert {f.stride for f in windows if not is_part(f.name)} == {(4, 4), (8, 8)}
