"""A backbone around another one says of weights what that one says, and blames it where it fails."""

import shutil

import hubbed
import pytest
import torch

from medfuse.api import Backbone, ImageInfo
from medfuse.core.errors import CheckpointError
from medfuse.model.around import Around, seen_by
from medfuse.registry import CONTRACTS, entries, load

IMAGE = ImageInfo(1, (8, 8, 8), (1.0, 1.0, 1.0))


class Strangers(Around):
    """Another backbone as it is."""


@pytest.fixture
def folder(tmp_path):
    hubbed.write_hub(tmp_path / "net")
    return tmp_path / "net"


def test_it_hands_through_where_weights_come_from_the_weights_and_what_is_pinned(folder):
    inner = hubbed.Hubbed(folder=str(folder))
    around = Strangers(of=inner)
    assert around.origin() == inner.origin()
    weights = inner.weights(IMAGE)
    assert {*around.weights(IMAGE)} == {*weights}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in around.weights(IMAGE).items())
    assert around.pinned() == Strangers(of=inner.pinned())


@pytest.mark.parametrize("asked", ["origin", "pinned"])
def test_what_is_wrong_is_said_at_the_place_of_the_other_one(folder, asked):
    around = Strangers(of=Strangers(of=hubbed.Hubbed(folder=str(folder))))
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError) as caught:
        getattr(around, asked)()
    assert caught.value.at == ("of", "of")


def test_every_installed_backbone_that_has_another_one_is_such():
    group = Backbone.group
    installed = [load(entry) for contract in CONTRACTS if contract.group == group for entry in entries(group)]
    around = [plugin for plugin in installed if "of" in plugin.model_fields]
    assert around
    assert all(issubclass(plugin, Around) for plugin in around)


@pytest.mark.parametrize("way", ["each", "repeat", "first"])
def test_a_network_of_three_channels_is_shown_an_image_of_any_number(folder, way):
    hubbed.write_hub(folder, channels=3)
    inner = hubbed.Hubbed(folder=str(folder))
    for channels in (1, 2, 5):
        image = ImageInfo(channels, (8, 8, 8), (1.0, 1.0, 1.0))
        seen = seen_by(inner, way, 3)
        assert seen.origin() == inner.origin()
        network = seen.build(image)
        network(torch.rand(1, channels, 8, 8, 8))
        assert {*seen.weights(image)} <= {*network.state_dict()}
