"""Networks that were trained on pictures: what they are shown of an image, and what is refused before."""

import re

import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from medfuse.api import ImageInfo
from medfuse.core.errors import ShapeError
from medfuse.model.pictured import Pictured
from medfuse.model.pictures import NEITHER, Mean, Std, normalization, refuse_half, refuse_rest, refuse_unlike

OF_WEIGHTS = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def picture(channels: int = 3, size: tuple[int, ...] = (32, 32)) -> ImageInfo:
    return ImageInfo(channels, size, (1.0,) * len(size))


def test_values_are_brought_to_mean_0_and_std_1_of_each_channel():
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in OF_WEIGHTS)
    z = torch.randn(2, 3, 8, 6)
    made = Pictured(nn.Identity(), 3, OF_WEIGHTS)(mean + std * z)
    torch.testing.assert_close(made, z)


@pytest.mark.parametrize("said", [OF_WEIGHTS, ((0.5,), (0.2,)), None])
def test_one_channel_is_seen_as_all_of_the_networks(said):
    network, x = Pictured(nn.Identity(), 3, said), torch.rand(2, 1, 8, 6)
    assert torch.equal(network(x), network(x.expand(-1, 3, -1, -1)))


def test_without_mean_and_std_values_stay_as_they_are():
    x = torch.rand(2, 3, 8, 6)
    assert torch.equal(Pictured(nn.Identity(), 3, None)(x), x)


def test_a_mean_of_another_number_of_channels_is_refused():
    with pytest.raises(ShapeError, match="mean and std have 3 numbers, and the network 4 channels"):
        Pictured(nn.Identity(), 4, OF_WEIGHTS)


def test_what_a_plugin_says_counts_before_what_its_weights_say():
    said = ((0.1,), (2.0,))
    assert normalization(*said, lambda: OF_WEIGHTS) == said
    assert normalization(None, None, lambda: OF_WEIGHTS) == OF_WEIGHTS
    assert normalization(None, None, lambda: None) is None
    assert normalization(*NEITHER, lambda: OF_WEIGHTS) is None


class Normalized(BaseModel):
    mean: Mean = None
    std: Std = None


@pytest.mark.parametrize("said", [{"mean": []}, {"std": [0.0]}, {"std": [-1.0]}, {"std": []}])
def test_numbers_that_nothing_can_be_divided_by_are_refused(said):
    with pytest.raises(ValidationError):
        Normalized(**said)


@pytest.mark.parametrize("said", [((0.5,), None), (None, (0.5,))])
def test_one_of_mean_and_std_alone_is_refused(said):
    with pytest.raises(ValueError, match="give both of mean and std, or neither"):
        refuse_half(*said)
    refuse_half(None, None)
    refuse_half((0.5,), (0.5,))


def test_a_volume_and_channels_that_do_not_fit_are_refused_with_what_to_write():
    with pytest.raises(ShapeError, match=r"use: slices, of: \{use: mine, …\}"):
        refuse_unlike(picture(size=(32, 32, 8)), 3, "mine")
    for channels in (2, 4):
        with pytest.raises(ShapeError, match=f"sees 3 channels, and is given {channels}") as caught:
            refuse_unlike(picture(channels), 3, "mine")
        assert all(f"channels: {way}" in str(caught.value) for way in ("each", "repeat", "first"))
    for channels in (1, 3):
        refuse_unlike(picture(channels), 3, "mine")


@pytest.mark.parametrize(
    ("size", "unit", "fits"), [((33, 32), (8, 8), [40, 32]), ((60, 64), (14, 16), [70, 64])]
)
def test_a_patch_that_leaves_a_rest_is_refused_with_the_next_size_that_fits(size, unit, fits):
    with pytest.raises(ShapeError, match=re.escape(f"the next size that fits is {fits}")):
        refuse_rest(picture(size=size), unit)
    refuse_rest(picture(size=tuple(fits)), unit)
    refuse_rest(picture(size=size), None)
