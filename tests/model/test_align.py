"""Where the voxels of a map lie, and where its upsampling puts them."""

import pytest
import torch
from torch import nn

from medfuse.api import Backbone, FeatureInfo, ImageInfo
from medfuse.model.graph import plan_graph
from medfuse.model.resample import centred
from medfuse.model.segmenter import Segmenter, build_segmenter
from medfuse.model.settings import ModelSettings


class Strided(Backbone):
    """Passes on every s-th voxel, as strided convolutions do, or the mean of s, as poolings do."""

    stride: tuple[int, ...] = (4,)
    mean: bool = False

    def features(self, image):
        return [FeatureInfo("0", 1, self.stride)]

    def build(self, image):
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[image.dims]
        if self.mean:
            layer = conv(1, 1, self.stride, self.stride, bias=False)
            layer.weight.data.fill_(1 / layer.weight.numel())
        else:
            layer = conv(1, 1, 3, self.stride, padding=1, bias=False)
            layer.weight.data.zero_()
            layer.weight.data[(0, 0, *[1] * image.dims)] = 1
        return nn.Sequential(layer)


def network(stride: tuple[int, ...], align: str, size: int = 64, **settings) -> Segmenter:
    """Its only logit is the map, brought to the image's size."""
    described = {
        "backbones": {"encoder": Strided(stride=stride, **settings)},
        "taps": {"encoder": {"use": "forward_hook", "align": align}},
        "head": {"input": "encoder.0"},
    }
    image = ImageInfo(1, (size,) * len(stride), (1.0,) * len(stride))
    model = build_segmenter(plan_graph(ModelSettings.model_validate(described), image, 1))
    model.head.weight.data.fill_(1)
    model.head.bias.data.zero_()
    return model.eval()


def shift(model: Segmenter, axis: int, dims: int, size: int = 64) -> float:
    """How far a ramp along an axis comes out to the right of where it was, in voxels, away from the edges."""
    ramp = torch.arange(float(size)).reshape([-1 if a == axis else 1 for a in range(dims)])
    image = ramp.expand([size] * dims)[None, None]
    with torch.no_grad():
        error = (image - model(image))[0, 0]
    inner = (slice(size // 2 - 2, size // 2 + 2),) * dims
    return float(error[inner].mean())


@pytest.mark.parametrize("stride", [(2, 2), (4, 4), (8, 2), (32, 32), (4, 1), (4, 4, 2)])
@pytest.mark.parametrize(
    ("mean", "align", "off"),
    [(False, "middle", 0.5), (False, "start", 0), (True, "middle", 0), (True, "start", -0.5)],
)
def test_a_ramp_stays_in_place_where_align_says_where_voxels_lie(stride, mean, align, off):
    size = 128 if len(stride) == 2 else 32
    model = network(stride, align, size, mean=mean)
    for axis, step in enumerate(stride):
        assert shift(model, axis, len(stride), size) == pytest.approx(off * (step - 1), abs=1e-3)


@pytest.mark.parametrize(("align", "off"), [("middle", 15.5), ("start", 0.0)])
def test_an_impulse_at_stride_32_keeps_its_centre_of_mass(align, off):
    image = torch.zeros(1, 1, 256, 256)
    image[..., 96, 128] = 1
    with torch.no_grad():
        made = network((32, 32), align, 256)(image)[0, 0]
    places = torch.arange(256.0)
    centre = [float((made.sum(1 - axis) * places).sum() / made.sum()) for axis in (0, 1)]
    assert centre == pytest.approx([96 + off, 128 + off], abs=1e-2)


def test_constant_maps_and_single_voxels_are_left_alone():
    assert torch.equal(centred(torch.ones(1, 2, 5, 5), (8, 8)), torch.ones(1, 2, 5, 5))
    one = torch.randn(1, 2, 1, 1)
    assert centred(one, (32, 32)) is one
    fine = torch.randn(1, 2, 5, 5)
    assert centred(fine, (1, 1)) is fine


def test_the_default_is_what_it_was():
    torch.manual_seed(0)
    image = torch.randn(1, 1, 64, 64)
    model = network((4, 4), "middle")
    raw = model.backbones["encoder"](image)["0"]
    expected = nn.functional.interpolate(model.head(raw), size=(64, 64), mode="bilinear", align_corners=False)
    assert torch.equal(model(image), expected)
