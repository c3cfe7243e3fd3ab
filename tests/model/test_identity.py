"""Maps have the same name where they are the same, and another where anything that makes them is another."""

import pytest
import torch
from torch import nn

from medfuse.api import Backbone, FeatureInfo, ImageInfo
from medfuse.model.graph import plan_graph
from medfuse.model.identity import map_keys
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings

IMAGE = ImageInfo(1, (8, 8), (1.0, 1.0))


class Alike(Backbone):
    """A network whose code is edited between two runs: its parameters and weights stay as they are."""

    def features(self, image):
        return [FeatureInfo("conv", 2, (1, 1))]

    def build(self, image):
        made = nn.Sequential()
        made.first, made.conv = BUILT[-1], nn.Conv2d(1, 2, 1)
        return made


BUILT: list[nn.Module] = []


def key(first: nn.Module) -> str:
    BUILT.append(first)
    settings = {"backbones": {"encoder": Alike()}, "head": {"input": "encoder.conv"}}
    plan = plan_graph(ModelSettings.model_validate(settings), IMAGE, 2)
    torch.manual_seed(0)
    return map_keys(plan, build_segmenter(plan), ["encoder"])["encoder.conv"]


def test_the_same_network_has_the_same_key():
    assert key(nn.ReLU()) == key(nn.ReLU())


@pytest.mark.parametrize("other", [nn.GELU(), nn.LeakyReLU(0.1), nn.MaxPool2d(3, 1, 1)])
def test_layers_without_weights_count(other):
    assert key(other) != key(nn.LeakyReLU(0.2))


class Calling(nn.Module):
    """Prints an address, as functions do."""

    def __init__(self) -> None:
        super().__init__()
        self.function = lambda x: x

    def extra_repr(self) -> str:
        return repr(self.function)

    def forward(self, x):
        return self.function(x)


def test_addresses_in_memory_do_not_count():
    assert key(Calling()) == key(Calling())
