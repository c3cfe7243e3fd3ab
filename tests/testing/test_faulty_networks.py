"""Faults of backbones, tap strategies and schedules, each caught by the law that it breaks."""

import math
import random
from dataclasses import replace

import torch
from planting import Module, each, failed, planted
from pydantic import Field, PrivateAttr
from torch import nn
from torch.nn import functional

from medfuse.api import AuxSchedule, Backbone, FeatureInfo, ImageInfo, TapStrategy
from medfuse.testing import check_aux_schedule, check_backbone, check_tap_strategy

IMAGE = ImageInfo(2, (8, 8), (1.0, 1.0))


class Network(Backbone):
    """Two convolutions.

    encoder: {use: network}
    """

    def features(self, image):
        return [FeatureInfo("fine", 4, (1, 1)), FeatureInfo("coarse", 8, (2, 2))]

    def build(self, image):
        return two_layers(image.channels, in_turn)


def two_layers(channels, forward, **parts):
    fine, coarse = nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
    return Module(forward, fine=fine, coarse=coarse, **parts)


def in_turn(module, x):
    return module.coarse(module.fine(x).relu())


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
    return in_turn(module, functional.interpolate(x, module.size))


def centred_on_the_batch(module, x):
    return in_turn(module, x - x.mean((0, 2, 3), keepdim=True))


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
        return two_layers(self._channels, in_turn) if self._channels else nn.Sequential()


class Narrowing(Network):
    __doc__ = Network.__doc__
    _calls: list = PrivateAttr(default_factory=list)

    def features(self, image):
        self._calls.append(image)
        return super().features(image)[: 1 if len(self._calls) > 1 else 2]


def of_rgb(self, image):
    return two_layers(2, in_turn)


NETWORKS = {
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


@each(NETWORKS)
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
        return Module(self.run, fine=nn.Conv2d(image.channels, 4, 3, padding=1), norm=nn.LayerNorm(4))

    @staticmethod
    def run(module, x):
        return module.norm(module.fine(x).movedim(1, -1))


def test_layers_that_have_their_channels_last_are_declared_so():
    check_backbone(Last(), IMAGE)
    assert "declared equals real" in failed(check_backbone, Last(known=False), IMAGE)


def test_one_channel_is_not_enough_to_hide_the_others():
    def first_alone(self, image):
        return two_layers(1, lambda module, x: in_turn(module, x[:, :1]))

    faulty = planted(Network, build=first_alone)
    image = replace(IMAGE, channels=1)
    assert "declared equals real for other channels" in failed(check_backbone, faulty(), image)


def test_without_a_fault_a_backbone_passes():
    check_backbone(Network(), IMAGE)


# ---- tap strategies


class Taps(TapStrategy):
    """Layers of a chain, run in turn.

    taps: {use: taps, layers: [a]}
    """

    def attach(self, backbone, taps, image):
        return Module(self.run, backbone=backbone, names=[tap.name for tap in taps], kept={}, calls=0)

    @staticmethod
    def run(module, x):
        made = {}
        for name, layer in module.backbone.named_children():
            made[name] = x = layer(x)
        return {name: made[name] for name in module.names}


def twice(module, x):
    module.backbone(x)
    return Taps.run(module, x)


def without_gradients_behind(module, x):
    with torch.no_grad():
        first = Taps.run(module, x)
    return {**first, **{n: y for n, y in Taps.run(module, x).items() if n != "0"}}


def in_one_dict(module, x):
    made = Taps.run(module, x)
    for name, y in made.items():
        if name in module.kept and module.kept[name].shape == y.shape and not y.requires_grad:
            module.kept[name].copy_(y)
        else:
            module.kept[name] = y
    return dict(module.kept)


def from_the_first(module, x):
    made = Taps.run(module, x)
    return {name: made[name] for name in ("0", "4")}


def rounded(module, x):
    return {name: y.bfloat16().float() for name, y in Taps.run(module, x).items()}


def scaled_down(module, x):
    return {name: y * 0.5 + (y * 0.5).detach() for name, y in Taps.run(module, x).items()}


def broken_by_an_error(module, x):
    module.calls += 1
    try:
        made = Taps.run(module, x)
    except RuntimeError:
        module.backbone[0].bias = None
        raise
    return made


def frozen(self, backbone, taps, image):
    return Taps.attach(self, backbone.requires_grad_(False), taps, image)


def of_another(self, backbone, taps, image):
    import copy

    return Taps.attach(
        self, ANOTHER.setdefault(image.channels + image.dims, copy.deepcopy(backbone)), taps, image
    )


ANOTHER: dict[int, nn.Module] = {}


def for_grey_images(self, backbone, taps, image):
    if len(taps) < 2:
        raise KeyError("two taps")
    return Taps.attach(self, backbone, taps, image)


class Turning(Taps):
    __doc__ = Taps.__doc__

    def attach(self, backbone, taps, image):
        return Module(self.run, backbone=backbone, names=[tap.name for tap in taps], taps=taps)

    @staticmethod
    def run(module, x):
        made = Taps.run(module, x)
        return {tap.name: tap.channels_first(made[tap.name]) for tap in module.taps}


class Guessing(Turning):
    __doc__ = Taps.__doc__

    @staticmethod
    def run(module, x):
        made = Taps.run(module, x)
        channels = {tap.name: tap.channels for tap in module.taps}
        return {
            n: y if y.shape[1] == channels[n] else y.movedim(-1, 1) for n, y in made.items() if n in channels
        }


STRATEGIES = {
    "runs the network twice": ("trains as without taps", {"run": staticmethod(twice)}),
    "runs a part without gradients": (
        "trains as without taps",
        {"run": staticmethod(without_gradients_behind)},
    ),
    "reuses its outputs": ("nothing is kept", {"run": staticmethod(in_one_dict)}),
    "gives what nobody asked for": ("makes what is asked for", {"run": staticmethod(from_the_first)}),
    "rounds": ("equals the real outputs", {"run": staticmethod(rounded)}),
    "halves gradients": ("trains as without taps", {"run": staticmethod(scaled_down)}),
    "is broken by an image that fails": (
        "recovers from an image that fails",
        {"run": staticmethod(broken_by_an_error)},
    ),
    "freezes the network": ("trains as without taps", {"attach": frozen}),
    "keeps the first network": ("two tapped networks share nothing", {"attach": of_another}),
    "takes two taps and no less": ("makes what is asked for", {"attach": for_grey_images}),
}
IN_ORDER = "hands on as made what has its channels last"


@each(STRATEGIES)
def test_a_faulty_tap_strategy_is_caught(fault):
    check, members = fault
    ANOTHER.clear()
    assert check in failed(check_tap_strategy, planted(Taps, **members)())


@each({"turns maps itself": Turning(), "turns what looks as if": Guessing()})
def test_a_tap_strategy_that_turns_maps_is_caught(fault):
    assert {IN_ORDER, f"{IN_ORDER} in 3-D"} <= failed(check_tap_strategy, fault)


def test_without_a_fault_a_tap_strategy_passes():
    check_tap_strategy(Taps())


# ---- schedules


class Schedule(AuxSchedule):
    """Falls along a line.

    schedule: {use: schedule}
    """

    def weights(self, step, total_steps, heads):
        return [0.5 * (1 - step / total_steps)] * heads


class First(Schedule):
    __doc__ = Schedule.__doc__
    _total: list = PrivateAttr(default_factory=list)

    def weights(self, step, total_steps, heads):
        self._total.append(total_steps)
        return [0.5 * (1 - min(step / self._total[0], 1))] * heads


class OneList(Schedule):
    __doc__ = Schedule.__doc__
    _made: list = PrivateAttr(default_factory=list)

    def weights(self, step, total_steps, heads):
        self._made[:] = super().weights(step, total_steps, heads)
        return self._made


class Balance(nn.Module):
    def __init__(self, heads, forward=None):
        super().__init__()
        self.scale, self.heads, self.run = nn.Parameter(torch.zeros(1 + heads)), heads, forward

    def forward(self, losses):
        return self.run(self, losses)

    def weights(self):
        return (-self.scale).exp().tolist()


def balanced(forward):
    return {"balance": lambda self, heads: Balance(heads, forward)}


def by_scale(module, losses):
    return ((-module.scale).exp() * losses + module.scale / 2).sum()


def reading(weights):
    return {"weights": lambda self, step, total_steps, heads: weights(step, total_steps, heads)}


SCHEDULES = {
    "divides by steps that are left": (
        "weights are finite and not negative",
        reading(lambda s, t, h: [1 / (t - 1 - s) if t - 1 - s else math.inf] * h),
    ),
    "divides by one head less": (
        "weights are finite and not negative",
        reading(lambda s, t, h: [i / (h - 1) for i in range(h)]),
    ),
    "is complex early on": (
        "weights are finite and not negative",
        reading(lambda s, t, h: [(s / t - 0.5) ** 0.5] * h),
    ),
    "falls below 0 at the end": (
        "weights are finite and not negative",
        reading(lambda s, t, h: [0.5 - 0.51 * s / t] * h),
    ),
    "gives tensors": (
        "weights are finite and not negative",
        reading(lambda s, t, h: list(torch.full((h,), 0.5))),
    ),
    "gives them once": ("one weight per head", reading(lambda s, t, h: (0.5 for _ in range(h)))),
    "forgets a head at the end": (
        "one weight per head",
        reading(lambda s, t, h: [0.5] * (h - (s == t - 1 and h > 1))),
    ),
    "is good for three heads": (
        "one weight per head",
        reading(lambda s, t, h: [0.5, 0.3, 0.1] if h >= 3 else [0.5] * h),
    ),
    "fails in long trainings": (
        "weights are finite and not negative",
        reading(lambda s, t, h: [math.nan if s > 200_000 else 0.5] * h),
    ),
    "is drawn": ("is a pure function", reading(lambda s, t, h: [random.random()] * h)),
    "is drawn by torch": ("is a pure function", reading(lambda s, t, h: torch.rand(h).tolist())),
    "keeps its first length": ("is a pure function", First),
    "hands out one list": ("is a pure function", OneList),
    "takes the logarithm of a loss": (
        "balances losses to a finite scalar",
        balanced(lambda m, x: (m.scale.exp() * x.log()).sum()),
    ),
    "balances two heads": (
        "balances losses to a finite scalar",
        balanced(lambda m, x: by_scale(m, x[:3] + x.new_zeros(3))),
    ),
    "forgets the main loss": (
        "gradients reach every parameter and loss",
        balanced(lambda m, x: by_scale(m, torch.cat([x.detach()[:1], x[1:].detach()]))),
    ),
    "keeps what losses were": (
        "a call leaves nothing for the next",
        balanced(lambda m, x: by_scale(m, x) * getattr(m, "seen", 1) + setattr_(m, float(x.detach()[-1]))),
    ),
}


def setattr_(module, value):
    module.seen = value
    return 0


@each(SCHEDULES)
def test_a_faulty_schedule_is_caught(fault):
    check, members = fault
    faulty = members if isinstance(members, type) else planted(Schedule, **members)
    assert check in failed(check_aux_schedule, faulty())


def test_without_a_fault_a_schedule_passes():
    check_aux_schedule(Schedule())
    check_aux_schedule(planted(Schedule, **balanced(by_scale))())
