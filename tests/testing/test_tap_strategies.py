"""Faults that authors of tap strategies make, each caught by the law that it breaks."""

import copy

import torch
from planting import Module, each, failed, planted
from sound import Taps
from torch import nn

from medfuse.testing import check_tap_strategy


def twice(module, x):
    module.backbone(x)
    return Taps.forward(module, x)


def without_gradients_behind(module, x):
    with torch.no_grad():
        first = Taps.forward(module, x)
    return {**first, **{n: y for n, y in Taps.forward(module, x).items() if n != "0"}}


def in_one_dict(module, x):
    kept = vars(module).setdefault("kept", {})
    for name, y in Taps.forward(module, x).items():
        if name in kept and kept[name].shape == y.shape and not y.requires_grad:
            kept[name].copy_(y)
        else:
            kept[name] = y
    return dict(kept)


def from_the_first(module, x):
    made = Taps.forward(module, x)
    return {name: made[name] for name in ("0", "4")}


def rounded(module, x):
    return {name: y.bfloat16().float() for name, y in Taps.forward(module, x).items()}


def scaled_down(module, x):
    return {name: y * 0.5 + (y * 0.5).detach() for name, y in Taps.forward(module, x).items()}


def broken_by_an_error(module, x):
    try:
        return Taps.forward(module, x)
    except RuntimeError:
        module.backbone[0].bias = None
        raise


def renamed(module, x):
    return {f"layer{name}": made for name, made in Taps.forward(module, x).items()}


def rectified(module, x):
    return {name: made.relu() for name, made in Taps.forward(module, x).items()}


def detached(module, x):
    return {name: made.detach() for name, made in Taps.forward(module, x).items()}


def hoarded(module, x):
    module.kept = Taps.forward(module, x)
    return module.kept


def by_closure(self, backbone, taps, image):
    kept = {}
    for tap in taps:
        layer = backbone.get_submodule(tap.name)
        layer.register_forward_hook(lambda _, __, made, name=tap.name: kept.update({name: made}))

    def run(module, x):
        kept.clear()
        module.backbone(x)
        return dict(module.kept)

    return Module(run, backbone=backbone, kept=kept)


def frozen(self, backbone, taps, image):
    return Taps.attach(self, backbone.requires_grad_(False), taps, image)


def of_another(self, backbone, taps, image):
    return Taps.attach(
        self, ANOTHER.setdefault(image.channels + image.dims, copy.deepcopy(backbone)), taps, image
    )


ANOTHER: dict[int, nn.Module] = {}


def of_two_taps(self, backbone, taps, image):
    if len(taps) < 2:
        raise KeyError("two taps")
    return Taps.attach(self, backbone, taps, image)


class Turning(Taps):
    __doc__ = Taps.__doc__

    def attach(self, backbone, taps, image):
        return Module(self.forward, backbone=backbone, names=[tap.name for tap in taps], taps=taps)

    @staticmethod
    def forward(module, x):
        made = Taps.forward(module, x)
        return {tap.name: tap.channels_first(made[tap.name]) for tap in module.taps}


class Guessing(Turning):
    __doc__ = Taps.__doc__

    @staticmethod
    def forward(module, x):
        made = Taps.forward(module, x)
        channels = {tap.name: tap.channels for tap in module.taps}
        return {
            n: y if y.shape[1] == channels[n] else y.movedim(-1, 1) for n, y in made.items() if n in channels
        }


def running(forward):
    return {"forward": staticmethod(forward)}


FAULTS = {
    "renames maps": ("makes what is asked for", running(renamed)),
    "rectifies": ("equals the real outputs", running(rectified)),
    "detaches": ("gradients are alive", running(detached)),
    "holds on to its maps": ("nothing is kept", running(hoarded)),
    "fills a dict of the first copy": ("a copy agrees", {"attach": by_closure}),
    "runs the network twice": ("trains as without taps", running(twice)),
    "runs a part without gradients": ("trains as without taps", running(without_gradients_behind)),
    "reuses its outputs": ("nothing is kept", running(in_one_dict)),
    "gives what nobody asked for": ("makes what is asked for", running(from_the_first)),
    "rounds": ("equals the real outputs", running(rounded)),
    "halves gradients": ("trains as without taps", running(scaled_down)),
    "is broken by an image that fails": ("recovers from an image that fails", running(broken_by_an_error)),
    "freezes the network": ("trains as without taps", {"attach": frozen}),
    "keeps the first network": ("two tapped networks share nothing", {"attach": of_another}),
    "takes two taps and no less": ("makes what is asked for", {"attach": of_two_taps}),
}


@each(FAULTS)
def test_a_faulty_tap_strategy_is_caught(fault):
    check, members = fault
    ANOTHER.clear()
    assert check in failed(check_tap_strategy, planted(Taps, **members)())


IN_ORDER = "hands on as made what has its channels last"


@each({"turns maps itself": Turning(), "turns what looks as if": Guessing()})
def test_a_tap_strategy_that_turns_maps_is_caught(fault):
    assert {IN_ORDER, f"{IN_ORDER} in 3-D"} <= failed(check_tap_strategy, fault)


def test_without_a_fault_a_tap_strategy_passes():
    check_tap_strategy(Taps())
