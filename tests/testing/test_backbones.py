"""Faults that authors of backbones make, each caught by the law that it breaks."""

from dataclasses import replace

import torch
from planting import Module, each, failed, planted
from pydantic import Field, PrivateAttr
from sound import Network, two_layers
from torch import nn
from torch.nn import functional

from medfuse.api import FeatureInfo, ImageInfo, TokenLayout
from medfuse.testing import check_backbone

IMAGE = ImageInfo(2, (8, 8), (1.0, 1.0))
FINE, COARSE = Network().features(IMAGE)


def network(forward, **parts):
    def build(self, image):
        return two_layers(image.channels, forward, **{name: make() for name, make in parts.items()})

    return planted(Network, build=build)


def scaled_in_place(module, x):
    made = module.fine(x)
    coarse = module.coarse(made.relu())
    made.mul_(2)
    return coarse


def normalised_in_place(module, x):
    return module.coarse(module.norm(module.fine(x)).relu_())


def of_grey(module, x):
    return module.coarse(module.fine(x[:, :1].expand_as(x)).relu())


def padded_for_good(module, x):
    module.size = module.size or x.shape[2:]
    return Network.forward(module, functional.interpolate(x, module.size))


def centred_on_the_batch(module, x):
    return Network.forward(module, x - x.mean((0, 2, 3), keepdim=True))


def in_float64(module, x):
    return module.coarse(module.fine(x).relu()).double()


def as_wide_as_an_image(self, image):
    first = FeatureInfo("fine", 4 * image.channels // 2, (1, 1))
    return [first, FeatureInfo("coarse", 8, (2, 2))]


def with_a_float(self, image):
    return [FeatureInfo("fine", 4, (1, 1)), FeatureInfo("coarse", 16 / 2, (2, 2))]


class Remembering(Network):
    __doc__ = Network.__doc__
    _channels: int = PrivateAttr(0)

    def features(self, image):
        self._channels = image.channels
        return super().features(image)

    def build(self, image):
        return two_layers(self._channels, Network.forward) if self._channels else nn.Sequential()


class Narrowing(Network):
    __doc__ = Network.__doc__
    _calls: list = PrivateAttr(default_factory=list)

    def features(self, image):
        self._calls.append(image)
        return super().features(image)[: 1 if len(self._calls) > 1 else 2]


def unrecorded(module, x):
    with torch.no_grad():
        return Network.forward(module, x)


def cut_between(module, x):
    return module.coarse(module.fine(x).detach())


def image_in_place(module, x):
    return Network.forward(module, x.div_(2))


ONE = two_layers(2, Network.forward)


def declaring(*features: FeatureInfo) -> type:
    return planted(Network, features=lambda self, image: list(features))


def of_rgb(self, image):
    return two_layers(2, Network.forward)


FAULTS = {
    "declares a channel more": ("declared equals real", declaring(FeatureInfo("fine", 5, (1, 1)))),
    "declares twice its stride": ("declared equals real", declaring(FeatureInfo("coarse", 8, (4, 4)))),
    "declares the coarsest first": ("has features, finest first", declaring(COARSE, FINE)),
    "declares nothing": ("has features, finest first", declaring()),
    "declares a feature twice": ("feature names are unique", declaring(FINE, FINE)),
    "runs without gradients": ("gradients are alive", network(unrecorded)),
    "cuts gradients between its layers": (
        "gradients reach every parameter",
        planted(network(cut_between), features=lambda self, image: [COARSE]),
    ),
    "changes the image": ("inputs stay as they are", network(image_in_place)),
    "is always the same network": (
        "two networks share nothing",
        planted(Network, build=lambda self, image: ONE),
    ),
    "scales a feature in place": ("features are not overwritten", network(scaled_in_place)),
    "sees one channel": ("every channel counts", network(of_grey)),
    "keeps its first size": (
        "a call leaves nothing for the next",
        network(padded_for_good, size=lambda: None),
    ),
    "is centred on the batch": ("any batch", network(centred_on_the_batch)),
    "declares other channels for other images": (
        "declared equals real for other channels",
        planted(Network, features=as_wide_as_an_image),
    ),
    "is built for two channels": ("declared equals real for other channels", planted(Network, build=of_rgb)),
    "declares half channels": ("declares whole numbers", planted(Network, features=with_a_float)),
    "is built as it was planned last": ("features are pure", Remembering),
    "declares less each time": ("features are pure", Narrowing),
}


@each(FAULTS)
def test_a_faulty_backbone_is_caught(fault):
    check, faulty = fault
    assert check in failed(check_backbone, faulty(), IMAGE)


class Last(Network):
    """A layer whose channels come last.

    encoder: {use: last}
    """

    known: bool = Field(True, description="whether it says so")

    def features(self, image):
        return [FeatureInfo("norm", 4, (1, 1), channels_last=self.known)]

    def build(self, image):
        return Module(self.forward, fine=nn.Conv2d(image.channels, 4, 3, padding=1), norm=nn.LayerNorm(4))

    @staticmethod
    def forward(module, x):
        return module.norm(module.fine(x).movedim(1, -1))


def test_layers_that_have_their_channels_last_are_declared_so():
    check_backbone(Last(), IMAGE)
    assert "declared equals real" in failed(check_backbone, Last(known=False), IMAGE)


class OfTokens(Network):
    """Tokens of patches, one in front.

    encoder: {use: of_tokens}
    """

    turned: bool = Field(False, description="whether its first axis is the fastest")
    known: int = Field(1, ge=0, description="tokens in front that it speaks of")

    def features(self, image):
        return [FeatureInfo("norm", 4, (2, 2), tokens=TokenLayout(self.known))]

    def build(self, image):
        patches = nn.Conv2d(image.channels, 4, 2, stride=2)
        made = Module(self.forward, fine=patches, norm=nn.LayerNorm(4))
        made.turned = self.turned
        return made

    @staticmethod
    def forward(module, x):
        made = module.fine(x)
        tokens = (made.transpose(2, 3) if module.turned else made).flatten(2).mT
        return module.norm(torch.cat([tokens.mean(1, keepdim=True), tokens], 1))


def test_tokens_lie_as_the_image_does_and_as_many_in_front_as_declared():
    check_backbone(OfTokens(), IMAGE)
    assert [*failed(check_backbone, OfTokens(turned=True), IMAGE)] == ["maps of tokens lie as the image does"]
    assert "declared equals real" in failed(check_backbone, OfTokens(known=0), IMAGE)


def test_one_channel_is_not_enough_to_hide_the_others():
    def first_alone(self, image):
        return two_layers(1, lambda module, x: Network.forward(module, x[:, :1]))

    faulty = planted(Network, build=first_alone)
    image = replace(IMAGE, channels=1)
    assert "declared equals real for other channels" in failed(check_backbone, faulty(), image)


def test_without_a_fault_a_backbone_passes():
    check_backbone(Network(), IMAGE)
