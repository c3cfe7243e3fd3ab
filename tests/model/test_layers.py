"""Every layer of a network, as one trial shows it."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medfuse import registry
from medfuse.api import Backbone, ImageInfo
from medfuse.model.layers import Layer, find_layers

FLAT, SOLID = ImageInfo(1, (32, 32), (1.0, 1.0)), ImageInfo(1, (16, 16, 16), (1.0, 1.0, 1.0))


class Net(nn.Module):
    """A layer that runs twice, one that never runs, one that makes numbers, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.idle = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 1)
        self.down = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1, groups=1), nn.ReLU())
        self.up, self.numbers = nn.ConvTranspose2d(4, 2, 2, stride=2), nn.Linear(4, 3)

    def forward(self, x):
        x = self.down(self.twice(self.twice(x)))
        return self.up(x), self.numbers(x.mean((2, 3)))


def layers() -> dict[str, Layer]:
    return {layer.name: layer for layer in find_layers(Net, FLAT)}


def test_a_layers_map_and_stride_are_real():
    down = layers()["down"]
    assert (down.map_size, down.stride, down.feature().channels) == ((4, 16, 16), (2, 2), 4)


def test_what_makes_numbers_says_one_thing_of_the_whole_image():
    feature = layers()["numbers"].feature()
    assert feature is not None
    assert (feature.image_level, feature.channels, feature.stride) == (True, 3, (32, 32))


def test_what_never_runs_is_no_feature():
    assert layers()["idle"].feature() is None


def test_runs_are_counted():
    assert [layers()[name].runs for name in ("twice", "idle", "up")] == [2, 0, 1]


def test_a_layer_counts_what_is_inside():
    found = layers()
    assert found["down"].flops == found["down.0"].flops > 0
    assert found[""].parameters == sum(
        found[name].parameters for name in ("twice", "idle", "down", "up", "numbers")
    )


@pytest.mark.parametrize(
    ("make", "image"),
    [
        (Net, FLAT),
        (lambda: registry.get(Backbone.group, "resnet")(depth=10).build(SOLID), SOLID),
        (lambda: registry.get(Backbone.group, "unet_encoder")(base_channels=4).build(SOLID), SOLID),
    ],
)
def test_operations_are_those_that_torch_counts(make, image):
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        make()(torch.zeros(2, 1, *image.patch_size))
    assert 2 * find_layers(make, image)[0].flops == counter.get_total_flops()
