"""Shapes without memory: what the meta device answers is what the network makes."""

import pytest
import torch
from torch import nn

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
    ],
)
def test_mistakes_get_torchs_own_words(image, make, reason):
    with pytest.raises(ShapeError, match=reason):
        trial(make(), image)
