"""How deep the layers of a network lie, told by its blocks and the order in which they run."""

import pytest
import torch
from torch import nn

from medfuse.api import Backbone, FeatureInfo, ImageInfo
from medfuse.model.depths import depths, find_blocks, of_network
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings

IMAGE = ImageInfo(1, (32, 32), (1.0, 1.0))


class Block(nn.Module):
    """Attention's and a perceptron's place, with a weight of its own."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.norm1, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, width), nn.GELU())
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x + self.gamma * self.mlp(self.norm1(x))


class ViT(nn.Module):
    """A transformer; its blocks may be registered in another order than they run in."""

    def __init__(self, *, backwards: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.patch_embed = nn.Conv2d(1, 4, 8, stride=8)
        self.pos_embed = nn.Parameter(torch.zeros(1, 16, 4))
        self.backwards = backwards

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = x + self.pos_embed if x.shape[1] == 16 else x
        for block in reversed(self.blocks) if self.backwards else self.blocks:
            x = block(x)
        return self.norm(x)


class Swin(nn.Module):
    """Stages that are lists of blocks, with a merging of patches behind the first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 4)
        self.layers = nn.ModuleList(Stage(merges=last == 0) for last in range(2))
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        x = self.embed(x.flatten(2).transpose(1, 2))
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class Stage(nn.Module):
    def __init__(self, merges: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.downsample = nn.Sequential(nn.Linear(4, 4)) if merges else nn.Identity()

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.downsample(x)


def by_module(network: nn.Module) -> dict[str, set[int]]:
    """Depths of the parameters directly below each module of the first two steps of a path."""
    found: dict[str, set[int]] = {}
    for name, depth in of_network(network, IMAGE).items():
        found.setdefault(name.rpartition(".")[0] or name, set()).add(depth)
    return found


def test_an_embedding_is_the_deepest_then_come_the_blocks_and_a_last_norm_is_not_deep():
    found = by_module(ViT())
    assert found["patch_embed"] == found["pos_embed"] == {4}
    for number, depth in enumerate((3, 2, 1)):
        for part in ("", ".norm1", ".mlp.0"):
            assert found[f"blocks.{number}{part}"] == {depth}
    assert found["norm"] == {0}


def test_the_order_in_which_blocks_run_counts():
    found = by_module(ViT(backwards=True))
    assert [found[f"blocks.{number}"] for number in range(3)] == [{1}, {2}, {3}]


def test_the_blocks_of_stages_are_in_a_row_and_what_runs_between_goes_with_the_one_before():
    assert find_blocks(Swin()) == [
        f"layers.{stage}.blocks.{block}" for stage in range(2) for block in range(2)
    ]
    found = by_module(Swin())
    assert found["embed"] == {5}
    assert found["layers.0.blocks.1"] == {3} == found["layers.0.downsample.0"]
    assert found["layers.1.blocks.1"] == {1}
    assert found["norm"] == {0}


def test_where_nothing_is_numbered_each_layer_is_one():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3))
    assert by_module(network) == {"0": {3}, "2": {2}, "3": {1}}
    assert by_module(nn.Sequential(network)) == {"0.0": {3}, "0.2": {2}, "0.3": {1}}


def of_backbone(use: dict, dims: int, taps: str = "forward_hook") -> tuple[dict[str, int], int]:
    """Depths by the backbone's own names, and the number of layers."""
    settings = {
        "backbones": {"encoder": use},
        "taps": {"encoder": {"use": taps}},
        "fusion": {"fused": {"use": "hypercolumn", "inputs": ["encoder.*"]}},
        "head": {"input": "fused"},
    }
    image = ImageInfo(1, (32,) * dims, (1.0,) * dims)
    model = build_segmenter(plan_graph(ModelSettings.model_validate(settings), image, 2))
    found = depths(model, image)
    assert {*found} == {n for n, _ in model.named_parameters() if n.startswith("backbones.")}
    return {name.removeprefix("backbones.encoder."): depth for name, depth in found.items()}, max(
        found.values()
    )


RESNET = {"use": "resnet", "depth": 10}
UNET = {"use": "unet_encoder", "base_channels": 4, "stages": 3}


@pytest.mark.parametrize("taps", ["forward_hook", "fx_graph", "sequential_truncation"])
def test_a_resnet_has_its_blocks_however_it_is_tapped(taps):
    found, layers = of_backbone(RESNET, 2, taps)
    assert layers == 5
    assert {depth for name, depth in found.items() if ".conv1." in name and "layer" not in name} == {5}
    for number in range(1, 5):
        assert {d for name, d in found.items() if f".layer{number}." in name} == {5 - number}


@pytest.mark.parametrize(
    ("use", "dims"),
    [
        (UNET, 3),
        ({"use": "slices", "of": UNET}, 3),
        ({"use": "view", "of": UNET, "channels": {"a": [0], "b": [0]}}, 2),
        ({"use": "edited", "of": UNET, "edits": [{"replace": "*.act", "by": "torch.nn.SiLU"}]}, 2),
    ],
)
def test_a_unet_encoder_has_its_convolutions_whatever_wraps_it(use, dims):
    found, layers = of_backbone(use, dims)
    assert layers == 6
    in_order = [depth for name, depth in found.items() if name.endswith("conv.weight")]
    assert in_order == [6, 5, 4, 3, 2, 1]


class Two(Backbone):
    """A transformer, for a graph with two of them."""

    def features(self, image):
        return [FeatureInfo("patch_embed", 4, (8, 8))]

    def build(self, image):
        return ViT()


def test_each_backbone_has_depths_of_its_own():
    settings = {
        "backbones": {"a": Two(), "b": UNET},
        "fusion": {"fused": {"use": "hypercolumn", "inputs": ["a.*", "b.*"]}},
        "head": {"input": "fused"},
    }
    model = build_segmenter(plan_graph(ModelSettings.model_validate(settings), IMAGE, 2))
    found = depths(model, IMAGE)
    assert max(d for name, d in found.items() if name.startswith("backbones.a.")) == 4
    assert max(d for name, d in found.items() if name.startswith("backbones.b.")) == 6
