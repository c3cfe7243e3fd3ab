"""One bright place in the image is where the map of tokens answers, or the map is refused."""

from functools import partial

import pytest
import torch
from torch import nn
from vits import Pairs, Perceptron, ViT

from medfuse.api import FeatureInfo, ImageInfo, TokenLayout
from medfuse.core.errors import PipelineError
from medfuse.model.graph import plan_graph
from medfuse.model.layers import find_layers
from medfuse.model.places import misplaced
from medfuse.model.settings import ModelSettings
from medfuse.model.verify import verify


def image(*size: int, channels: int = 1) -> ImageInfo:
    return ImageInfo(channels, size, (1.0,) * len(size))


def taps(build, of: ImageInfo) -> list[FeatureInfo]:
    found = find_layers(build, of, partial=True)
    return [f for layer in found if layer.name and layer.name != "patch_embed" and (f := layer.feature())]


SOUND = {
    "flat": ((32, 48), {}),
    "square": ((32, 32), {"registers": 4}),
    "without class": ((32, 48), {"cls": False, "positions": "fixed"}),
    "deep": ((32, 48), {"depth": 12}),
    "solid": ((16, 24, 8), {"patch": (8, 8, 4)}),
    "small": ((16, 16), {"positions": "none"}),
    "wide heads": ((28, 42), {"patch": 14, "heads": 1, "fused": False}),
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("gain", [0.02, 1.0, 3.0])
def test_sound_networks_are_never_refused(name, gain):
    """Whatever their weights are drawn from, every layer of theirs."""
    size, settings = SOUND[name]

    def build() -> nn.Module:
        network = ViT(size, **settings)
        for p in network.parameters():
            if p.ndim > 1 and gain != 1:
                nn.init.trunc_normal_(p, std=gain * (0.3 if gain > 1 else 1))
        return network

    found = taps(build, image(*size))
    assert len(found) > 8
    for tap in found:
        assert not misplaced(build, [tap], image(*size)), tap


@pytest.mark.parametrize(("size", "patch"), [((32, 48), 8), ((32, 32), 8), ((16, 24, 16), 8)])
def test_exchanged_axes_are_found(size, patch):
    build = partial(ViT, size, patch, order="yx", positions="none")
    tap = FeatureInfo("blocks.0", 12, (patch,) * len(size), tokens=TokenLayout(1))
    (wrong,) = misplaced(build, [tap], image(*size))
    assert "along the axes in the order y, x" in wrong


def test_an_axis_that_runs_backwards_is_found():
    build = partial(ViT, order="backwards", positions="none")
    (wrong,) = misplaced(build, [FeatureInfo("norm", 12, (8, 8), tokens=TokenLayout(1))], image(32, 48))
    assert "run backwards along x" in wrong


class Behind(ViT):
    """Its class token stands behind the others."""

    def embedded(self, x):
        x = super().embedded(x)
        return torch.cat([x[:, 1:], x[:, :1]], 1)


def test_tokens_in_front_that_are_none_are_found():
    (wrong,) = misplaced(Behind, [FeatureInfo("blocks.1", 12, (8, 8), tokens=TokenLayout(1))], image(32, 48))
    assert "shifted by -1, so 0 tokens stand in front and not 1" in wrong


def test_blocks_that_return_more_are_looked_at_too():
    assert not misplaced(Pairs, [FeatureInfo("blocks.1", 12, (8, 8), tokens=TokenLayout(1))], image(32, 48))


def test_chance_is_as_before():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    misplaced(ViT, [FeatureInfo("blocks.1", 12, (8, 8), tokens=TokenLayout(1))], image(32, 48))
    assert torch.equal(before, torch.get_rng_state())


def planned(target: str, parameters: dict, of: ImageInfo, taps: dict):
    settings = {
        "backbones": {"encoder": {"use": "module", "target": target, "parameters": parameters}},
        "taps": {"encoder": {"use": "tokens", **taps}},
        "head": {"input": "encoder.blocks.1"},
    }
    return plan_graph(ModelSettings.model_validate(settings), of, 2)


def test_a_patch_size_that_was_guessed_wrongly_is_refused_and_can_be_declared():
    parameters = {"size": (32, 32), "patch": [4, 16]}
    with pytest.raises(PipelineError, match="do not lie as the image does"):
        verify(planned("vits:Perceptron", parameters, image(32, 32), {"layers": [1]}))
    verify(planned("vits:Perceptron", parameters, image(32, 32), {"layers": [1], "patch_size": [4, 16]}))


def test_a_network_that_makes_its_tokens_along_the_other_axis_is_refused_in_one_line():
    with pytest.raises(PipelineError) as caught:
        verify(planned("vits:ViT", {"order": "yx", "positions": "none"}, image(32, 48), {"layers": [1]}))
    (problem,) = caught.value.problems
    assert problem.path == ("model", "backbones", "encoder")
    assert "in the order y, x" in problem.message


def test_a_perceptron_of_cubes_is_sound():
    assert not misplaced(Perceptron, taps(Perceptron, image(32, 48)), image(32, 48))
