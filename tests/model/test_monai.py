"""MONAI's networks as backbones: what is found in them is made, learns, and leaves them as they were."""

import logging
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from medfuse import registry
from medfuse.api import ImageInfo, TapStrategy, TokenLayout
from medfuse.builtin.nets.probe import construct
from medfuse.core.names import is_part
from medfuse.model.layers import find_layers

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's and MONAI's own, of what they call themselves

FLAT: Mapping[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
SOLID: Mapping[str, Any] = {**FLAT, "spatial_dims": 3}
CLASSIFIER: Mapping[str, Any] = {"spatial_dims": 2, "in_channels": 1, "num_classes": 2}
NARROW = (4, 4, 8, 16, 16, 4)
DYNUNET = {
    "kernel_size": [3, 3, 3],
    "strides": [1, 2, 2],
    "upsample_kernel_size": [2, 2],
    "filters": [4, 8, 16],
}
VIT = {"hidden_size": 48, "mlp_dim": 96, "num_heads": 4}

QUICK: dict[str, tuple[str, int, Mapping[str, Any]]] = {
    "DynUNet": ("DynUNet", 32, {**SOLID, **DYNUNET}),
    "DynUNet in 2-D": ("DynUNet", 32, {**FLAT, **DYNUNET, "deep_supervision": True, "deep_supr_num": 1}),
    "SegResNet": ("SegResNet", 32, {**SOLID, "init_filters": 8}),
    "SegResNetDS": ("SegResNetDS", 32, {**SOLID, "init_filters": 8, "dsdepth": 2}),
    "VNet": ("VNet", 32, FLAT),
    "AttentionUnet": ("AttentionUnet", 32, {**SOLID, "channels": (4, 8, 16), "strides": (2, 2)}),
    "BasicUNet": ("BasicUNet", 32, {**SOLID, "features": NARROW}),
    "HighResNet": ("HighResNet", 32, FLAT),
    "UNet": ("UNet", 32, {**SOLID, "channels": (4, 8, 16), "strides": (2, 2), "num_res_units": 1}),
    "UNet, odd size": ("UNet", 33, {**FLAT, "channels": (4, 8), "strides": (2,)}),
    "ResNet": ("resnet10", 32, {"spatial_dims": 3, "n_input_channels": 1, "num_classes": 2}),
    "ViT": (
        "ViT",
        32,
        {**VIT, "in_channels": 1, "img_size": [32] * 3, "patch_size": [16] * 3, "num_layers": 2},
    ),
    "ViT in 2-D": (
        "ViT",
        32,
        {
            **VIT,
            "in_channels": 1,
            "img_size": [32] * 2,
            "patch_size": [16] * 2,
            "num_layers": 2,
            "spatial_dims": 2,
        },
    ),
    "AutoEncoder": ("AutoEncoder", 32, {**FLAT, "channels": (4, 8), "strides": (2, 2)}),
    "RegUNet": ("RegUNet", 32, {**FLAT, "num_channel_initial": 4, "depth": 2}),
    "Discriminator": ("Discriminator", 32, {"in_shape": (1, 32, 32), "channels": (4, 8), "strides": (2, 2)}),
    "PatchDiscriminator": ("PatchDiscriminator", 64, {**FLAT, "channels": 4, "num_layers_d": 2}),
}
SLOW: dict[str, tuple[str, int, Mapping[str, Any]]] = {
    "SegResNetVAE": (
        "SegResNetVAE",
        32,
        {"input_image_size": [32] * 3, "init_filters": 8, "out_channels": 2},
    ),
    "SwinUNETR": ("SwinUNETR", 64, {**FLAT, "feature_size": 12}),
    "UNETR": (
        "UNETR",
        32,
        {**VIT, "in_channels": 1, "out_channels": 2, "img_size": [32] * 3, "feature_size": 8},
    ),
    "BasicUNet++": ("BasicUNetPlusPlus", 32, {**FLAT, "features": NARROW, "deep_supervision": True}),
    "DenseNet": ("DenseNet121", 64, {**FLAT}),
    "EfficientNet": (
        "EfficientNetBN",
        64,
        {**CLASSIFIER, "model_name": "efficientnet-b0", "pretrained": False},
    ),
    "SENet": ("SEResNet50", 64, CLASSIFIER),
    "FlexibleUNet": ("FlexibleUNet", 64, {**FLAT, "backbone": "efficientnet-b0", "pretrained": False}),
    "MedNeXt": ("MedNeXt", 32, {**SOLID, "init_filters": 8}),
    "Quicknat": ("Quicknat", 32, {"num_classes": 2, "num_channels": 1, "num_filters": 8}),
    "AutoencoderKL": (
        "AutoencoderKL",
        32,
        {
            **FLAT,
            "num_res_blocks": (1, 1),
            "channels": (8, 8),
            "attention_levels": (False, False),
            "latent_channels": 2,
            "norm_num_groups": 4,
        },
    ),
}
CASES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def described(name: str) -> tuple[str, Mapping[str, Any], ImageInfo]:
    network, size, parameters = {**QUICK, **SLOW}[name]
    dims = parameters.get("spatial_dims") or len(
        parameters.get("input_image_size", parameters.get("img_size", (2, 2)))
    )
    return f"monai.networks.nets:{network}", parameters, ImageInfo(1, (size,) * dims, (1.0,) * dims)


@pytest.mark.parametrize("name", CASES)
def test_what_is_found_is_what_is_made_and_the_network_stays_as_it_was(name, caplog):
    caplog.set_level(logging.ERROR, "medfuse")
    target, parameters, image = described(name)
    network = construct(target, parameters)
    before = {id(p): p.detach().clone() for p in network.parameters()}
    statistics = [b.clone() for b in network.buffers()]
    found = [
        f for layer in find_layers(lambda: construct(target, parameters), image) if (f := layer.feature())
    ]
    whole = [f for f in found if f.name and not is_part(f.name)]
    parts = [f for f in found if is_part(f.name)]
    taps = [*whole[:: max(1, len(whole) // 10)], *parts[:: max(1, len(parts) // 5)]]
    tapped = registry.get(TapStrategy.group, "forward_hook")().attach(network, taps, image)
    assert {id(p) for p in tapped.parameters()} == {*before}
    assert all(torch.equal(p, before[id(p)]) for p in tapped.parameters())
    assert all(torch.equal(a, b) for a, b in zip(statistics, network.buffers(), strict=True))
    for training in (True, False):
        made = tapped.train(training)(torch.randn(2, image.channels, *image.patch_size))
        for tap in taps:
            batch, channels, *size = tap.as_map(made[tap.name], image.patch_size).shape
            assert (batch, channels) == (2, tap.channels), tap
            assert all(n // s <= m <= -(-n // s) for n, s, m in zip(image.patch_size, tap.stride, size)), tap
    sum(x.square().mean() for x in made.values()).backward()
    assert any(p.grad is not None and p.grad.any() for p in tapped.parameters())


def test_a_vision_transformer_has_blocks_of_tokens():
    target, parameters, image = described("ViT")
    layers = {layer.name: layer for layer in find_layers(lambda: construct(target, parameters), image)}
    patches = layers["patch_embedding.patch_embeddings"].feature()
    block = layers["blocks.0"].feature()
    assert (block.channels, block.stride, block.tokens) == (patches.channels, patches.stride, TokenLayout())


def test_swin_blocks_have_their_channels_last_and_its_stages_first():
    _, _, image = described("SwinUNETR")
    swin = registry.get("medfuse.backbones", "swin_unetr")(channels=12)
    layers = {layer.name: layer for layer in find_layers(lambda: swin.build(image), image)}
    block, stage = layers["layers2.0.blocks.1"].feature(), layers["layers2.0"].feature()
    assert (block.channels, block.stride, block.channels_last) == (24, (4, 4), True)
    assert (stage.channels, stage.stride, stage.channels_last) == (48, (8, 8), False)
