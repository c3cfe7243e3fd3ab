"""Sequences of tokens as maps: read from trials and from what networks say, and turned for the graph."""

from functools import partial

import pytest
import torch
from torch import nn
from vits import Pairs, Perceptron, ViT

from medfuse.api import FeatureInfo, ImageInfo, KnownTokens, TokenLayout
from medfuse.core.errors import PipelineError, ShapeError
from medfuse.model.graph import plan_graph
from medfuse.model.layers import Layer, find_layers
from medfuse.model.maps import Shown
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.model.tokens import Hints, read_tokens, tokens_in_front
from medfuse.model.trial import BATCH
from medfuse.model.verify import verify


def image(*size: int, channels: int = 1) -> ImageInfo:
    return ImageInfo(channels, size, (1.0,) * len(size))


def layers(build, of: ImageInfo, **known) -> dict[str, Layer]:
    return {layer.name: layer for layer in find_layers(build, of, partial=True, known=KnownTokens(**known))}


# ---- reading


@pytest.mark.parametrize("positions", ["interpolated", "fixed", "none"])
@pytest.mark.parametrize(("cls", "registers"), [(False, 0), (True, 0), (True, 4)])
@pytest.mark.parametrize(
    ("size", "patch"),
    [((32, 48), 8), ((24, 32), (4, 16)), ((16, 16), 4), ((28, 42), 14), ((16, 24, 8), (8, 8, 4))],
)
def test_blocks_of_a_transformer_are_maps_of_the_patch_grid(size, patch, cls, registers, positions):
    settings = {"cls": cls, "registers": registers, "positions": positions}
    found = layers(partial(ViT, size, patch, **settings), image(*size))
    stride = (patch,) * len(size) if isinstance(patch, int) else patch
    grid = tuple(n // s for n, s in zip(size, stride))
    for name in ("blocks.0", "blocks.3", "norm", "blocks.1.attn"):
        layer = found[name]
        assert (layer.map_size, layer.stride, layer.tokens) == (
            (12, *grid),
            stride,
            TokenLayout(cls + registers),
        )
    assert found["blocks.2.mlp.0"].map_size == (24, *grid)


def test_a_network_without_a_layer_that_makes_maps_tells_its_patches_by_two_sizes():
    shown = [Shown((BATCH, 1 + 12 * 8, 6), (96, 64)), Shown((BATCH, 1 + 4 * 6, 6), (32, 48))]
    facts = read_tokens(shown, Hints())
    assert (facts.stride, facts.map_size, facts.tokens) == ((8, 8), (6, 12, 8), TokenLayout(1))


def test_one_size_alone_tells_equal_patches_and_no_tokens_in_front_that_nobody_speaks_of():
    assert read_tokens([Shown((BATCH, 24, 6), (32, 48))], Hints()).stride == (8, 8)
    assert "declare it" in read_tokens([Shown((BATCH, 25, 6), (32, 48))], Hints()).reason
    assert read_tokens([Shown((BATCH, 25, 6), (32, 48))], Hints(prefix=1)).tokens == TokenLayout(1)
    assert "declare it" in read_tokens([Shown((BATCH, 18, 6), (32, 48))], Hints()).reason


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ([(BATCH, 6, 24), (BATCH, 6, 54)], "its last axis follows the image"),
        ([(BATCH, 16, 24), (BATCH, 16, 24)], "16 tokens whatever the size of the image"),
        ([(8, 16, 24), (20, 16, 24)], "no map of the image"),
        ([(BATCH, 23, 24), (BATCH, 51, 24)], "declare it"),
    ],
)
def test_what_is_no_map_says_why(shapes, reason):
    shown = [Shown(shape, size) for shape, size in zip(shapes, [(32, 48), (48, 72)])]
    assert reason in read_tokens(shown, Hints()).reason


def test_what_is_declared_counts_before_all():
    build = partial(Perceptron, (32, 32), (4, 16))
    guessed = layers(build, image(32, 32))["blocks.0"].stride
    assert guessed == (8, 8)  # which is wrong, and found out by a trial
    assert layers(build, image(32, 32), patch_size=(4, 16))["blocks.0"].stride == (4, 16)
    wrong = layers(build, image(32, 32), patch_size=5, prefix=2)["blocks.0"]
    assert "declared patch_size 5 and prefix 2 do not lead" in wrong.reason


def test_networks_say_how_many_tokens_stand_in_front():
    assert tokens_in_front(ViT(cls=False)) == 0
    assert tokens_in_front(ViT(registers=3)) == 4
    network = ViT()
    network.num_prefix_tokens = 7
    assert tokens_in_front(network) == 7


def test_blocks_that_return_more_than_tokens_have_elements_that_are_maps():
    found = layers(Pairs, image(32, 48))
    assert found["blocks.1[0]"].tokens == TokenLayout(1)


# ---- turning


def places(*size: int) -> torch.Tensor:
    """(1, 1, *size), each place with its own number."""
    return torch.arange(float(torch.Size(size).numel())).reshape(1, 1, *size)


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("grid", [(4, 6), (3, 5, 2)])
def test_tokens_lie_as_their_network_reshapes_them(grid, prefix):
    channels = 7
    made = torch.randn(2, prefix + torch.Size(grid).numel(), channels)
    feature = FeatureInfo("x", channels, (8,) * len(grid), tokens=TokenLayout(prefix))
    theirs = made[:, prefix:].reshape(2, *grid, channels).movedim(-1, 1)
    assert torch.equal(feature.as_map(made, [8 * n for n in grid]), theirs)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(
    ("grid", "window", "shift"),
    [((4, 6), (2, 3), (0, 0)), ((5, 7), (4, 4), (2, 2)), ((3, 4, 5), (2, 2, 2), (1, 0, 1))],
)
def test_windows_are_put_together_as_they_were_cut(grid, window, shift, flat):
    """By Swin's own steps: fill up, roll back, cut."""
    whole = places(*grid)
    padded = nn.functional.pad(
        whole, [p for n, w in zip(reversed(grid), reversed(window)) for p in (0, -n % w)]
    )
    rolled = padded.roll([-s for s in shift], [*range(2, 2 + len(grid))]).movedim(1, -1)
    cut = rolled
    for axis, w in enumerate(window):
        cut = cut.unflatten(1 + 2 * axis, (-1, w))
    order = [0, *range(1, 2 * len(grid), 2), *range(2, 1 + 2 * len(grid), 2), 1 + 2 * len(grid)]
    windows = cut.permute(order).flatten(0, len(grid))
    made = windows.flatten(1, -2) if flat else windows
    feature = FeatureInfo("x", 1, (2,) * len(grid), tokens=TokenLayout(window=window, shift=shift))
    assert torch.equal(feature.as_map(made, [2 * n for n in grid]), whole)


def test_unrolled_tokens_are_rolled_up_again():
    """By Hiera's own steps: remainders of 2 in front, twice."""
    whole = places(8, 12)
    x = whole.movedim(1, -1)
    for _ in range(2):
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    made = x.reshape(1, -1, 1)
    feature = FeatureInfo("x", 1, (4, 4), tokens=TokenLayout(unrolled=((2, 2), (2, 2))))
    assert torch.equal(feature.as_map(made, (32, 48)), whole)


def test_another_number_of_tokens_is_told():
    feature = FeatureInfo("x", 3, (8, 8), tokens=TokenLayout(2))
    with pytest.raises(ShapeError, match=r"27 tokens of an image of 32×48 voxels.*4×6 places.*are 26"):
        feature.as_map(torch.zeros(1, 27, 3), (32, 48))


# ---- in the graph


def graph(
    target: str, parameters: dict, of: ImageInfo, inputs=("encoder.blocks.1", "encoder.blocks.3"), taps=None
):
    settings = {
        "backbones": {"encoder": {"use": "module", "target": f"vits:{target}", "parameters": parameters}},
        "taps": {"encoder": taps} if taps else {},
        "fusion": {"all": {"use": "concat", "inputs": [*inputs], "channels": 4}},
        "head": {"input": "all"},
    }
    return plan_graph(ModelSettings.model_validate(settings), of, 2)


@pytest.mark.parametrize("strategy", ["forward_hook", "fx_graph", "tokens"])
def test_in_the_graph_tokens_are_maps_with_their_channels_first(strategy):
    taps = {"use": strategy, "layers": ["blocks.1", "blocks.3"]}
    plan = graph(
        "ViT", {"registers": 2}, image(32, 48), taps={**taps, "norm": False} if strategy == "tokens" else taps
    )
    verify(plan)
    assert all(f.tokens is None for f in plan.features.values())
    torch.manual_seed(0)
    network = build_segmenter(plan).eval()
    x = torch.randn(2, 1, 32, 48)
    _, _, maps = network(x, (), ("encoder.blocks.1",))
    made = network.backbones["encoder"](x)["blocks.1"]
    assert torch.equal(maps["encoder.blocks.1"], made[:, 3:].reshape(2, 4, 6, 12).permute(0, 3, 1, 2))
    assert network(torch.randn(1, 1, 48, 16)).shape == (1, 2, 48, 16)


def test_a_chain_of_tokens_is_cut_off_behind_its_tap():
    plan = graph(
        "Chain",
        {},
        image(32, 48),
        ("encoder.1", "encoder.2"),
        {"use": "sequential_truncation", "layers": ["1", "2"]},
    )
    verify(plan)
    assert build_segmenter(plan)(torch.randn(1, 1, 32, 48)).shape == (1, 2, 32, 48)


def test_returned_tokens_are_native_taps():
    plan = graph("Returning", {}, image(32, 48), taps={"use": "native", "layers": ["blocks.1", "blocks.3"]})
    verify(plan)


def test_slices_and_views_see_the_maps_of_their_tokens():
    of = {"use": "module", "target": "vits:ViT", "parameters": {"channels": 3}}
    settings = {
        "backbones": {"encoder": {"use": "slices", "of": of}},
        "taps": {"encoder": {"use": "tokens", "layers": [1, 3]}},
        "fusion": {"all": {"use": "concat", "inputs": ["encoder.*"], "channels": 4}},
        "head": {"input": "all"},
    }
    plan = plan_graph(ModelSettings.model_validate(settings), image(32, 48, 5), 2)
    verify(plan)
    assert plan.features["encoder.blocks.3"].stride == (8, 8, 1)


# ---- other sizes than fit


def test_a_patch_that_is_no_multiple_names_the_sizes_that_fit():
    with pytest.raises(
        PipelineError, match=r"30×48 voxels are no multiple of its patches of 8×8; .* 24×48 and 32×48"
    ):
        verify(graph("ViT", {"positions": "none"}, image(30, 48)))
    with pytest.raises(
        PipelineError, match=r"30×48 voxels are no multiple of its patches of 8×8; .* 24×48 and 32×48"
    ):
        verify(graph("Strict", {"positions": "none"}, image(30, 48)))
