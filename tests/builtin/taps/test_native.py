"""Networks that return their features: found by identity, named by the layers that make them."""

import pytest
import torch
from torch import nn

from medfuse import registry
from medfuse.api import FeatureInfo, ImageInfo, TapStrategy
from medfuse.core.errors import ShapeError
from medfuse.testing import check_tap_strategy

IMAGE = ImageInfo(1, (16, 16), (1.0, 1.0))
Native = registry.get(TapStrategy.group, "native")


def attach(network: nn.Module, *names: str) -> nn.Module:
    return Native().attach(network, [FeatureInfo(name, 1, (1, 1)) for name in names], IMAGE)


class Features(nn.Module):
    """Layers in a row, and what `give` makes of their outputs."""

    def __init__(self, give=lambda fine, coarse: [fine, coarse], inplace: bool = False) -> None:
        super().__init__()
        self.fine = nn.Conv2d(1, 2, 3, padding=1)
        self.act = nn.ReLU(inplace)
        self.coarse = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(2, 3, 1))
        self.give = give

    def forward(self, x):
        fine = self.fine(x)
        return self.give(fine, self.coarse(self.act(fine)))


class Listing(nn.Sequential):
    """Returns the outputs of all its layers."""

    def forward(self, x):
        made = []
        for module in self:
            x = module(x)
            made.append(x)
        return made


class OfAListing(Native):
    """The strategy on the contract's chain of layers, made to return them all.

    {use: native, layers: ["0"]}
    """

    def attach(self, backbone, taps, image):
        return super().attach(Listing(*backbone), taps, image)


def test_the_contract_is_kept():
    check_tap_strategy(OfAListing())


@pytest.mark.parametrize(
    "give",
    [
        lambda fine, coarse: [fine, coarse],
        lambda fine, coarse: (coarse, {"fine": fine}),
        lambda fine, coarse: {"out": coarse, "inner": [None, fine]},
    ],
)
def test_returned_maps_get_the_names_of_their_layers(give):
    network, x = Features(give), torch.randn(2, 1, 16, 16)
    made = attach(network, "coarse", "fine")(x)
    assert list(made) == ["coarse", "fine"]
    assert torch.equal(made["fine"], network.fine(x))


def test_a_map_has_the_name_of_every_layer_that_returns_it():
    made = attach(Features(), "coarse", "coarse.1")(torch.randn(1, 1, 16, 16))
    assert made["coarse"] is made["coarse.1"]


def test_a_single_map_is_a_feature_too():
    network = Features(lambda fine, coarse: coarse)
    assert list(attach(network, "coarse")(torch.randn(1, 1, 16, 16))) == ["coarse"]


def test_what_is_not_returned_is_refused_with_what_is():
    message = r"does not return act, coarse\.0; it returns fine, coarse; tap it with forward_hook"
    with pytest.raises(ShapeError, match=message):
        attach(Features(), "fine", "act", "coarse.0")


def test_a_map_that_was_overwritten_is_no_longer_its_layers():
    with pytest.raises(ShapeError, match="does not return fine; it returns act, coarse"):
        attach(Features(inplace=True), "fine")


def test_a_network_that_returns_something_new_is_refused():
    with pytest.raises(ShapeError, match="no layer's output is returned as it is"):
        attach(Features(lambda fine, coarse: fine + 1), "fine")


def test_a_network_that_returns_less_in_inference_is_refused():
    network = Features()
    network.give = lambda fine, coarse: [fine, coarse] if network.training else coarse
    with pytest.raises(ShapeError, match="returns other maps in training than in inference"):
        attach(network, "coarse")


def test_a_change_of_what_is_returned_is_told():
    tapped = attach(Features(), "fine", "coarse")
    tapped.backbone.give = lambda fine, coarse: fine
    with pytest.raises(ShapeError, match=r"returned a Tensor without \[0\]"):
        tapped(torch.randn(1, 1, 16, 16))


def test_a_network_without_weights_is_tried_out_too():
    with torch.device("meta"):
        tapped = attach(Features(), "fine")
    assert all(p.is_meta for p in tapped.parameters())
