"""Backbones that see a part of the image."""

import pytest
import torch
from torch import nn

from medfuse import registry
from medfuse.api import Backbone, ImageInfo
from medfuse.core.errors import ShapeError
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings

IMAGE = ImageInfo(3, (32, 24), (1.0, 1.0))
UNET = {"use": "unet_encoder", "base_channels": 4, "strides": [1, 2, 2]}
NAMES = ["stages.0", "stages.1", "stages.2"]


def view(**parameters) -> Backbone:
    return registry.get(Backbone.group, "view").model_validate({"of": UNET, **parameters})


def network(plugin: Backbone, image: ImageInfo = IMAGE) -> nn.Module:
    torch.manual_seed(0)
    return plugin.build(image).eval()


def example(*size: int) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def names(plugin: Backbone) -> list[str]:
    return [f.name for f in plugin.features(IMAGE)]


def test_of_one_view_the_features_keep_their_names():
    assert names(view(channels=[1])) == NAMES


def test_of_several_they_begin_with_the_view_finest_first():
    assert names(view(channels={"a": [0], "b": [2]})) == [f"{v}.{name}" for name in NAMES for v in "ab"]


def test_channels_are_picked_by_number():
    module, x = network(view(channels=[2, 0])), example(32, 24)
    inner = module.inner(x[:, [2, 0]])
    assert all(torch.equal(module(x)[name], inner[name]) for name in NAMES)


def test_views_share_their_weights_so_that_swapped_channels_swap_the_maps():
    module, x = network(view(channels={"a": [0], "b": [1]})), example(32, 24)
    made, swapped = module(x), module(x[:, [1, 0, 2]])
    assert sum(p.numel() for p in module.parameters()) == sum(
        p.numel() for p in network(view(channels=[0])).parameters()
    )
    for name in NAMES:
        torch.testing.assert_close(made[f"a.{name}"], swapped[f"b.{name}"])
        assert not torch.allclose(made[f"a.{name}"], made[f"b.{name}"])


@pytest.mark.parametrize("size", [(32, 24), (33, 25), (39, 22), (12, 10)])
def test_a_crop_is_seen_alone_and_brought_back_to_its_place(size):
    module, x = network(view(crop=[16, 12])), example(*size)
    made = module(x)
    height, width = min(16, size[0]), min(12, size[1])
    top, left = ((n - c) // 2 // 4 * 4 for n, c in zip(size, (height, width)))  # 4 is the largest stride
    inner = module.inner(x[:, :, top : top + height, left : left + width])
    for name, stride in zip(NAMES, (1, 2, 4)):
        expected = torch.zeros(2, inner[name].shape[1], *(-(-n // stride) for n in size))
        rows, columns = inner[name].shape[2:]
        expected[:, :, top // stride : top // stride + rows, left // stride : left // stride + columns] = (
            inner[name]
        )
        assert torch.equal(made[name], expected)


def test_what_lies_outside_of_the_crop_does_not_matter():
    module, x = network(view(crop=[16, 12])), example(32, 24)
    other = x.clone()
    other[:, :, :8], other[..., :4] = 7, -3
    assert all(torch.equal(module(x)[name], module(other)[name]) for name in NAMES)


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"channels": [3]}, "the image has 3, numbered from 0, and none is 3"),
        ({"channels": {"a": [0], "b": [1, 2]}}, "a has 1, b has 2"),
        ({"crop": [16]}, "no part of a patch of [32, 24] voxels"),
        ({"crop": [33, 24]}, "no part of a patch of [32, 24] voxels"),
    ],
)
def test_a_view_of_what_is_not_there_is_refused(parameters, reason):
    with pytest.raises(ShapeError, match=reason.replace("[", r"\[")):
        view(**parameters).features(IMAGE)


@pytest.mark.parametrize("strategy", ["forward_hook", "native"])
def test_its_maps_are_tapped_like_any_others(strategy):
    parameters = {"use": "view", "of": UNET, "channels": {"a": [0], "b": [1]}, "crop": [16, 12]}
    settings = {
        "backbones": {"eyes": parameters},
        "taps": {"eyes": strategy},
        "fusion": {"fused": {"use": "subtract", "inputs": ["eyes.b.stages.1", "eyes.a.stages.1"]}},
        "head": {"input": "fused"},
    }
    model = build_segmenter(plan_graph(ModelSettings.model_validate(settings), IMAGE, 2))
    model(example(32, 24)).sum().backward()
    assert model(example(31, 25)).shape == (2, 2, 31, 25)


def test_what_cannot_tap_it_says_so():
    features = view(channels=[0]).features(IMAGE)[:1]
    for strategy in ("sequential_truncation", "fx_graph"):
        tap = registry.get("medfuse.tap_strategies", strategy)()
        with pytest.raises(ShapeError, match="forward_hook"):
            tap.attach(network(view(channels=[0])), features, IMAGE)
