"""Backbones that see a part of the image."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from medfuse import registry
from medfuse.api import Backbone, ImageInfo
from medfuse.core.errors import ShapeError
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.testing import check_backbone

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


# ---- networks of a set number of channels


class Coloured(Backbone):
    """A backbone that takes three channels and no other number, as those of ImageNet's weights do."""

    def features(self, image: ImageInfo):
        if image.channels != 3:
            raise ShapeError(f"sees 3 channels, not {image.channels}")
        return registry.get(Backbone.group, "unet_encoder").model_validate(PLAIN).features(image)

    def build(self, image: ImageInfo) -> nn.Module:
        return registry.get(Backbone.group, "unet_encoder").model_validate(PLAIN).build(image)


PLAIN = {name: value for name, value in UNET.items() if name != "use"}
FOUR = ImageInfo(4, (32, 24), (1.0, 1.0))


def maps(plugin: Backbone, x: torch.Tensor) -> dict[str, torch.Tensor]:
    return network(plugin, ImageInfo(x.shape[1], tuple(x.shape[2:]), (1.0, 1.0)))(x)


def four(*size: int) -> torch.Tensor:
    return torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(1))


def repeated(x: torch.Tensor, times: int) -> torch.Tensor:
    return x.expand(-1, times, -1, -1)


@pytest.mark.parametrize("sees", [1, 3])
@pytest.mark.parametrize("crop", [None, [16, 12]])
def test_each_channel_is_seen_alone_and_their_maps_lie_side_by_side(sees, crop):
    plugin, x = view(channels="each", sees=sees, crop=crop), four(32, 24)
    made, alone = maps(plugin, x), network(view(crop=crop), ImageInfo(sees, (32, 24), (1.0, 1.0)))
    for feature in plugin.features(FOUR):
        parts = [alone(repeated(x[:, c : c + 1], sees))[feature.name] for c in range(4)]
        torch.testing.assert_close(made[feature.name], torch.cat(parts, dim=1))
        assert feature.channels == made[feature.name].shape[1]
        assert feature.size(FOUR.patch_size) == made[feature.name].shape[2:]


def test_repeated_the_network_sees_their_mean():
    made, x = maps(view(channels="repeat", sees=3), four(32, 24)), four(32, 24)
    inner = network(view(), IMAGE)(repeated(x.mean(1, keepdim=True), 3))
    assert all(torch.equal(made[name], inner[name]) for name in NAMES)


@pytest.mark.parametrize(("sees", "seen"), [(1, [0]), (3, [0, 1, 2]), (5, [0] * 5)])
def test_the_first_are_as_many_as_it_sees_or_the_very_first(sees, seen):
    made, x = maps(view(channels="first", sees=sees), four(32, 24)), four(32, 24)
    inner = network(view(), ImageInfo(sees, (32, 24), (1.0, 1.0)))(x[:, seen])
    assert all(torch.equal(made[name], inner[name]) for name in NAMES)


@pytest.mark.parametrize(("of", "channels"), [(UNET, 1), (Coloured(), 3)])
def test_how_many_it_sees_is_found_out(of, channels):
    inner = view(of=of, channels="repeat").build(FOUR).inner.backbone
    assert next(inner.parameters()).shape[1] == channels


@pytest.mark.parametrize("way", ["each", "repeat"])
@pytest.mark.parametrize("image", [FOUR, ImageInfo(1, (16, 16, 8), (1.0, 1.0, 2.0))])
def test_the_contract_is_kept_where_all_channels_are_seen(way, image):
    check_backbone(view(channels=way, sees=3), image)


def test_a_number_without_a_way_is_refused():
    with pytest.raises(ValidationError, match="`sees` goes with channels: each, repeat or first"):
        view(channels=[0, 1], sees=2)


@pytest.mark.parametrize("way", ["each", "repeat", "first"])
def test_slices_take_one_channel_after_the_other_with_its_neighbours(way):
    image = ImageInfo(4, (32, 24, 3), (1.0, 1.0, 4.0))
    slices = registry.get(Backbone.group, "slices").model_validate({"of": Coloured(), "channels": way})
    x = torch.randn(2, 4, 32, 24, 3, generator=torch.Generator().manual_seed(1))
    seen = {"each": x.split(1, dim=1), "repeat": [x.mean(1, keepdim=True)], "first": [x[:, :1]]}[way]
    made = network(slices, image)(x)
    alone = network(slices.model_copy(update={"channels": None}), ImageInfo(1, *vars_of(image)))
    for feature in slices.features(image):
        expected = torch.cat([alone(part)[feature.name] for part in seen], dim=1)
        torch.testing.assert_close(made[feature.name], expected)
        assert feature.channels == expected.shape[1]


def vars_of(image: ImageInfo) -> tuple[tuple[int, ...], tuple[float, ...]]:
    return image.patch_size, image.spacing_mm


def test_what_is_wrong_inside_is_said_of_what_the_file_says():
    deep = ImageInfo(4, (32, 24, 3), (1.0, 1.0, 4.0))
    slices = {"of": Coloured(), "neighbours": 2, "channels": "each"}
    with pytest.raises(ShapeError, match="sees 3 channels, not 5") as caught:
        registry.get(Backbone.group, "slices").model_validate(slices).features(deep)
    assert caught.value.at == ("of",)
