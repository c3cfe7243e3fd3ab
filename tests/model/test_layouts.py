"""What a layer's output is: a map with channels first or last, or nothing that can be tapped."""

import math
import re

import pytest
import torch
from torch import nn

from medfuse.api import ImageInfo, TokenLayout
from medfuse.core.errors import PipelineError, ShapeError
from medfuse.model.graph import plan_graph
from medfuse.model.layers import Layer, find_layers
from medfuse.model.maps import Shown, other_sizes, read_map
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.model.trial import BATCH
from medfuse.model.verify import verify

CUBE, FLAT = ImageInfo(1, (32, 32, 32), (1.0,) * 3), ImageInfo(1, (32, 32), (1.0, 1.0))


class Swinish(nn.Module):
    """Channels last between two convolutions, as in Swin and ConvNeXt; `takes` says what sizes it runs on."""

    def __init__(self, dims: int = 3, channels: int = 8, stride: int = 4, takes=lambda size: True) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.takes = takes
        self.embed = conv(1, channels, stride, stride=stride)
        self.norm, self.mlp = nn.LayerNorm(channels), nn.Linear(channels, 2 * channels)
        self.flat = nn.Linear(channels, channels)
        self.pool = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[dims](4)
        self.squeeze = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[dims](1)
        self.project = conv(2 * channels, channels, 1)

    def forward(self, x):
        assert self.takes(tuple(x.shape[2:])), "odd size"
        x = self.norm(self.embed(x).movedim(1, -1))
        self.flat(x.flatten(1, -2))
        x = self.project(self.mlp(x).movedim(-1, 1))
        return self.squeeze(x), self.pool(x)


SIZES = {
    "any size": lambda size: True,
    "multiples of 32": lambda size: all(n % 32 == 0 for n in size),
    "multiples of 64": lambda size: all(n in (32, 64) or n % 64 == 0 for n in size),
    "multiples of its patch": lambda size: all(n % 32 == 0 and n > 31 for n in size),
    "one size": lambda size: set(size) == {32},
}


def layers(build, image=CUBE) -> dict[str, Layer]:
    return {layer.name: layer for layer in find_layers(build, image)}


@pytest.mark.parametrize("takes", SIZES)
@pytest.mark.parametrize("image", [CUBE, FLAT])
def test_channels_are_found_wherever_the_layer_puts_them(image, takes):
    """The map has 8 channels and 8 voxels an axis, so that one trial could not tell."""
    found = layers(lambda: Swinish(image.dims, takes=SIZES[takes]), image)
    size, stride = (8,) * image.dims, (4,) * image.dims
    facts = {name: (found[name].map_size, found[name].stride, found[name].channels_last) for name in found}
    assert facts["embed"] == ((8, *size), stride, False)
    assert facts["norm"] == ((8, *size), stride, True)
    assert facts["mlp"] == ((16, *size), stride, True)
    assert facts["project"] == ((8, *size), stride, False)


def test_tokens_on_their_way_are_a_map_of_their_places():
    found = layers(Swinish)["flat"]
    assert (found.map_size, found.stride, found.tokens) == ((8, 8, 8, 8), (4, 4, 4), TokenLayout())


def test_a_map_of_one_size_whatever_the_image_has_its_stride_on_this_patch():
    found = layers(lambda: Swinish(channels=12))
    assert (found["pool"].map_size, found["pool"].stride) == ((12, 4, 4, 4), (8, 8, 8))
    assert (found["squeeze"].map_size, found["squeeze"].stride) == ((12, 1, 1, 1), (32, 32, 32))


def test_attention_of_a_network_for_one_size_is_not_taken_for_a_map():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.drop = nn.Conv2d(1, 12, 8, 8), nn.Dropout()

        def forward(self, x):
            assert x.shape[2:] == (32, 32)
            tokens = self.embed(x).flatten(2).mT.reshape(2, 16, 12, 1).transpose(1, 2)
            return self.drop((tokens @ tokens.mT).softmax(-1))  # (batch, 12 heads, 16 tokens, 16 tokens)

    found = layers(Attention, FLAT)
    assert "first or last" in found["drop"].reason
    assert found["embed"].stride == (8, 8)


def test_what_stays_ambiguous_is_refused():
    shown = [Shown((BATCH, 8, 8, 8, 8), (32, 32, 32))]
    assert "channels may come first or last" in read_map(shown).reason
    assert read_map([Shown((BATCH, 8, 8, 8, 8), (32, 32, 32), 4)]).channels_last
    assert not read_map([Shown((BATCH, 8, 8, 8, 8), (32, 32, 32), 1)]).channels_last


@pytest.mark.parametrize("channels", [1, 4, 8, 16, 32])
@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16, 32])
def test_two_sizes_tell_every_layout_apart(channels, stride):
    for patch in ((32, 32, 32), (64, 32, 16), (96, 96, 96), (40, 56, 24), (128, 128), (33, 17, 9)):
        images = [patch, next(other_sizes(patch, real=False))]
        sizes = [tuple(-(-n // stride) for n in image) for image in images]
        first = read_map([Shown((BATCH, channels, *s), i) for s, i in zip(sizes, images)])
        last = read_map([Shown((BATCH, *s, channels), i) for s, i in zip(sizes, images)])
        assert first.map_size == last.map_size == (channels, *sizes[0])
        assert not first.channels_last
        assert last.channels_last or set(sizes[0]) == {channels} == {1}


def test_other_sizes_have_unlike_axes_and_none_of_the_patch():
    for patch in ((32, 32, 32), (64, 96, 16), (224, 224), (48, 48, 48)):
        for size in other_sizes(patch, real=False):
            assert len({*size}) == len(patch)
            assert all(a != b for a, b in zip(size, patch))


def test_a_trial_with_real_numbers_is_no_larger_than_eight_patches():
    for patch in ((16, 16, 8), (32, 32, 32), (96, 96, 96), (128, 128)):
        for size in other_sizes(patch, real=True):
            assert math.prod(size) <= max(2**15, 8 * math.prod(patch))


class Odd(nn.Module):
    """Every way in which a layer makes no map, or one in one mode only, or more than one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.extra, self.careful, self.idle = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)
        self.pair, self.named, self.text = Makes(lambda x: (x, x[..., ::2, ::2])), Makes(dict_of), Makes(str)
        self.twice = nn.Conv2d(4, 4, 3, 2, 1)
        self.places = Makes(lambda x: nn.functional.max_pool2d(x, 2, return_indices=True))
        self.swapped, self.cropped = Makes(lambda x: x.mT), nn.Conv2d(4, 2, 9)

    def forward(self, x):
        x = self.first(x)
        self.extra(x) if self.training else self.careful(x)
        for layer in (self.pair, self.named, self.text, self.swapped, self.cropped, self.places):
            layer(x)
        return self.twice(self.twice(x))


class Makes(nn.Module):
    def __init__(self, what) -> None:
        super().__init__()
        self.what = what

    def forward(self, x):
        return self.what(x)


def dict_of(x):
    return {"fine": x, "deep": [x[..., ::4, ::4]]}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("extra", "makes a map in training only"),
        ("careful", "makes a map in inference only"),
        ("idle", "never runs"),
        ("pair", r"makes a tuple; name an element of it: pair\[0\], pair\[1\]"),
        ("named", r"makes a dict; name an element of it: named\[fine\], named\[deep\]\[0\]"),
        ("text", "makes a str, in which there is no tensor"),
        ("cropped", "no map of the image at a whole stride"),
        ("swapped", "no map of the image at a whole stride"),
    ],
)
def test_a_layer_that_cannot_be_tapped_says_why(name, reason):
    layer = layers(Odd, FLAT)[name]
    assert layer.feature() is None
    assert re.search(reason, layer.reason)


def test_whole_numbers_are_no_feature_map():
    found = layers(Odd, FLAT)
    assert found["places[0]"].stride == (2, 2)
    assert "places[1]" not in found


def test_elements_and_calls_are_layers_of_their_own():
    found = layers(Odd, FLAT)
    assert (found["pair[1]"].stride, found["named[deep][0]"].stride) == ((2, 2), (4, 4))
    assert (found["twice#1"].stride, found["twice#2"].stride, found["twice"].stride) == (
        (2, 2),
        (4, 4),
        (4, 4),
    )


def test_layers_that_run_before_the_network_fails_are_found_where_that_is_enough():
    class Deep(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(1, 2, 3, 2, 1), nn.Conv2d(2, 2, 40))

    with pytest.raises(ShapeError, match="fails on a batch of 2×1×32×32"):
        find_layers(Deep, FLAT)
    first, second = find_layers(Deep, FLAT, partial=True)[1:]
    assert first.stride == (2, 2)
    assert "is not reached: the network fails on a batch of 2×1×32×32" in second.reason


def graph(*inputs: str, taps=None, target=f"{__name__}:Odd"):
    settings = {
        "backbones": {"encoder": {"use": "module", "target": target}},
        "taps": {"encoder": taps} if taps else {},
        "fusion": {"all": {"use": "concat", "inputs": list(inputs), "channels": 4}},
        "head": {"input": "all"},
    }
    return plan_graph(ModelSettings.model_validate(settings), FLAT, 2)


def test_calls_and_elements_are_tapped_by_name_and_by_no_glob():
    plan = graph("encoder.twice#1", "encoder.named[fine]", "encoder.pair[1]")
    verify(plan)
    assert [tap.name for tap in plan.backbones[0].taps] == ["named[fine]", "pair[1]", "twice#1"]
    assert not any("[" in tap.name or "#" in tap.name for tap in graph("encoder.*").backbones[0].taps)


@pytest.mark.parametrize(
    ("name", "words"),
    [("pooled", "makes 4 tokens whatever the size"), ("nor", "did you mean 'encoder.norm'")],
)
def test_what_a_graph_cannot_tap_is_refused_with_the_reason(name, words):
    with pytest.raises(PipelineError, match=words):
        graph(f"encoder.{name}", target=f"{__name__}:Flat")


class Flat(Swinish):
    def __init__(self) -> None:
        super().__init__(2)
        self.pooled = nn.Linear(8, 8)

    def forward(self, x):
        self.pooled(nn.functional.adaptive_avg_pool2d(self.embed(x), 2).flatten(2).mT)
        return super().forward(x)


@pytest.mark.parametrize("strategy", ["forward_hook", "fx_graph", "sequential_truncation"])
def test_in_the_graph_every_map_has_its_channels_first(strategy):
    names = ["embed", "norm", "mlp"] if strategy != "sequential_truncation" else ["embed"]
    plan = graph(*(f"encoder.{n}" for n in names), taps={"use": strategy}, target=f"{__name__}:Plain")
    assert not any(feature.channels_last for feature in plan.features.values())
    verify(plan)
    network, image = build_segmenter(plan).eval(), torch.randn(1, 1, 32, 32)
    mapped = tuple(f"encoder.{n}" for n in names)
    logits, _, maps = network(image, (), mapped)
    assert logits.shape == (1, 2, 32, 32)
    tapped = network.backbones["encoder"](image)
    for name, channels_last in zip(names, (False, True, True)):
        made = tapped[name].movedim(-1, 1) if channels_last else tapped[name]
        assert torch.equal(maps[f"encoder.{name}"], made)


@pytest.mark.parametrize("wrapped", ["slices", "view"])
def test_a_backbone_around_another_turns_its_maps(wrapped):
    of = {"use": "module", "target": f"{__name__}:Plain"}
    image = ImageInfo(1, (32, 32, 8), (1.0,) * 3)
    settings = {"slices": {"neighbours": 0}, "view": {"crop": [32, 32]}}[wrapped]
    named = ModelSettings.model_validate(
        {
            "backbones": {"encoder": {"use": wrapped, "of": of, **settings}},
            "head": {"input": "encoder.norm"},
        }
    )
    plan = plan_graph(named, image if wrapped == "slices" else FLAT, 2)
    verify(plan)
    assert plan.features["encoder.norm"].channels == 8


class Plain(Flat):
    def forward(self, x):
        return self.project(self.mlp(self.norm(self.embed(x).movedim(1, -1))).movedim(-1, 1))


class InDouble(Flat):
    def forward(self, x):
        return self.project(
            self.mlp(self.norm.double()(self.embed(x).movedim(1, -1).double()).float()).movedim(-1, 1)
        )


def test_a_map_in_double_precision_is_handed_on_in_that_of_the_image():
    plan = graph("encoder.embed", "encoder.norm", target=f"{__name__}:InDouble")
    assert build_segmenter(plan)(torch.randn(2, 1, 32, 32)).dtype == torch.float32
