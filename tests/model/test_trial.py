"""Shapes without memory: what the meta device answers is what the network makes."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from medfuse.api import ImageInfo
from medfuse.core.errors import ShapeError
from medfuse.model.trial import BATCH, trial, try_out

FLAT, SOLID = ImageInfo(2, (13, 18), (1.0, 1.0)), ImageInfo(2, (9, 13, 8), (1.0, 1.0, 1.0))

LAYERS = [
    (FLAT, lambda: nn.Conv2d(2, 6, 3)),
    (FLAT, lambda: nn.Conv2d(2, 6, (5, 3), stride=(2, 1), padding=(2, 0), dilation=(2, 3), groups=2)),
    (FLAT, lambda: nn.Conv2d(2, 6, 3, padding="same")),
    (FLAT, lambda: nn.Conv2d(2, 6, 3, padding=2, padding_mode="reflect")),
    (FLAT, lambda: nn.ConvTranspose2d(2, 6, (2, 3), stride=(2, 1))),
    (FLAT, lambda: nn.Conv3d(2, 6, 1)),  # takes the batch for channels, as torch allows
    (SOLID, lambda: nn.Conv3d(2, 4, (3, 1, 3), stride=2, padding=1, bias=False)),
    (
        SOLID,
        lambda: nn.ConvTranspose3d(
            2, 8, 3, stride=(2, 3, 2), padding=1, output_padding=(1, 2, 0), groups=2, dilation=(1, 2, 1)
        ),
    ),
    (SOLID, lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.InstanceNorm3d(4), nn.LeakyReLU(inplace=True))),
]


class Function(nn.Module):
    """A function of the image, as a layer."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


FUNCTIONS = [
    lambda x: 1 - x[:, :1] * x / 2 + x,
    lambda x: torch.maximum(x[:, 1:], x.sigmoid()) - x.relu(),
    lambda x: x.clone().mul_(x[:, :1]),
    lambda x: functional.silu(x) + functional.elu(x) + x.tanh().square(),
    lambda x: functional.interpolate(x, size=(4, 5, 20), mode="trilinear"),
    lambda x: functional.interpolate(x, scale_factor=2),
    lambda x: functional.max_pool3d(x, 3, stride=(2, 1, 3), padding=1),
    lambda x: functional.max_pool3d(x, (2, 3, 2)),
    lambda x: functional.max_pool3d(x, 2, ceil_mode=True),
    lambda x: functional.adaptive_avg_pool3d(x, (1, 2, 3)),
    lambda x: functional.adaptive_max_pool3d(x, (1, 2, 3)),
    lambda x: functional.adaptive_avg_pool3d(x, (None, 2, 3)),
    lambda x: functional.adaptive_avg_pool3d(x, 2),
    lambda x: functional.adaptive_max_pool3d(x, 2, return_indices=True)[1],
    lambda x: x.mean(dim=1, keepdim=True) + x.amax(dim=(2, -1), keepdim=True),
    lambda x: torch.mean(x, -1).floor().amin(1),
    lambda x: x.mean(),
    lambda x: functional.gelu(functional.dropout3d(x)).softmax(dim=1),
    lambda x: functional.layer_norm(functional.softmax(x, dim=1), (13, 8)),
    lambda x: functional.linear(x, torch.ones(5, 8), torch.ones(5)),
    lambda x: functional.scaled_dot_product_attention(x[..., :5, :], x, x[..., :3]),
]
LAYERS += [(SOLID, partial(Function, function)) for function in FUNCTIONS]


@pytest.mark.parametrize(("image", "make"), LAYERS)
def test_shapes_are_those_of_a_real_pass(image, make):
    real = make()(torch.zeros(BATCH, image.channels, *image.patch_size)).shape
    assert trial(make(), image).shape == real
    assert try_out(make, lambda module: trial(module, image)).shape == real


@pytest.mark.parametrize(
    ("image", "make", "reason"),
    [
        (FLAT, lambda: nn.Conv2d(3, 6, 3), "channels"),
        (FLAT, lambda: nn.Conv2d(2, 6, 15), "[Kk]ernel size"),
        (SOLID, lambda: nn.ConvTranspose3d(3, 6, 2), "channels"),
        (SOLID, lambda: Function(lambda x: x + x[..., 1:]), "must match the size of tensor"),
        (SOLID, lambda: Function(lambda x: functional.interpolate(x, size=(4, 4, 4), mode="bilinear")), "4D"),
        (SOLID, lambda: nn.MaxPool3d(2, padding=2), "at most half"),
        (SOLID, lambda: nn.MaxPool3d(20), "too small"),
        (SOLID, lambda: nn.Linear(9, 5), "cannot be multiplied"),
        (SOLID, lambda: nn.LayerNorm((9, 8)), "normalized_shape"),
        (SOLID, lambda: Function(lambda x: x.mean(dim=5)), "out of range"),
        (
            SOLID,
            lambda: Function(lambda x: functional.scaled_dot_product_attention(x, x[..., 1:], x)),
            "size|[Ss]hape|expected",
        ),
    ],
)
def test_mistakes_get_torchs_own_words(image, make, reason):
    with pytest.raises(ShapeError, match=reason):
        trial(make(), image)


@pytest.mark.parametrize(
    ("width", "said", "times"),
    [
        (8, "sizes differ", 2),
        (8, "not on meta tensors", 2),
        (20_000, "sizes differ", 1),
        (2_000_000, "not on meta tensors", 1),
    ],
)
def test_a_heavy_network_that_fails_without_arithmetic_is_not_tried_with_it(width, said, times):
    made = []

    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            made.append(1)
            self.weights = nn.Parameter(torch.empty(width, width))

        def forward(self, x):
            raise RuntimeError(said)

    with pytest.raises(ShapeError, match=f"fails on a batch of .*: RuntimeError: {said}"):
        try_out(Fails, lambda network: trial(network, SOLID))
    assert len(made) == times


class Computing(nn.Module):
    """Its constructor needs a number, which the meta device has not, before it makes its weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        rates = torch.linspace(0, 1, 4)
        self.rate = float(rates[1])
        self.inner = nn.Linear(width, width)


def test_a_constructor_that_needs_numbers_is_made_with_them_where_there_is_room():
    assert try_out(lambda: Computing(8), lambda made: made.inner.weight.is_meta) is False
    with pytest.raises(ShapeError, match=r"is too large to be made: it asks for more than .* GiB"):
        try_out(lambda: Computing(2**20), lambda made: made)


def test_a_network_that_fails_on_a_vast_patch_is_not_tried_with_arithmetic():
    vast = ImageInfo(2, (20_000,) * 3, (1.0,) * 3)
    with pytest.raises(ShapeError, match="a convolution of 9 channels is given 4"):
        try_out(lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.Conv3d(9, 4, 3)), lambda made: trial(made, vast))
