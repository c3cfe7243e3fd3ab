"""Built-in tap strategies: the contract, and where each refuses."""

import logging

import pytest
import torch
from torch import nn

from medfuse import registry
from medfuse.api import Backbone, FeatureInfo, ImageInfo, TapStrategy
from medfuse.core.errors import ShapeError
from medfuse.model.blame import placed
from medfuse.testing import check_tap_strategy

IMAGE = ImageInfo(1, (16, 16), (1.0, 1.0))
HOOK, CUT = "forward_hook", "sequential_truncation"


def attach(strategy: str, network: nn.Module, *names: str, image: ImageInfo = IMAGE) -> nn.Module:
    taps = [FeatureInfo(name, 1, (1, 1)) for name in names]
    return registry.get(TapStrategy.group, strategy)().attach(network, taps, image)


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(inplace=True),
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)),
        nn.Conv2d(4, 2, 1),
    )


class Residual(nn.Module):
    """Two layers whose sum is not a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.idle = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

    def forward(self, x):
        a = self.a(x)
        return self.b(a + x)


class Functional(Residual):
    """A chain, but for a function between its layers."""

    def forward(self, x):
        return self.b(torch.relu_(self.a(x)))


class Twice(Residual):
    """Runs one layer twice."""

    def forward(self, x):
        return self.b(self.a(self.a(x)))


@pytest.mark.parametrize("name", ["forward_hook", "sequential_truncation", "fx_graph"])
def test_the_contract_is_kept(name):
    check_tap_strategy(registry.get(TapStrategy.group, name)())


def test_every_strategy_has_a_contract_test():
    built_in = {e.name for e in registry.entries(TapStrategy.group) if e.package == "medfuse"}
    assert built_in == {
        "forward_hook",
        "sequential_truncation",
        "fx_graph",
        "native",
        "tokens",
    }  # in their own files


@pytest.mark.parametrize("names", [("0",), ("1", "2"), ("2.1",), ("2.0", "2"), ("0", "3")])
def test_truncation_equals_hooks_to_the_last_bit(names):
    network, x = chain(), torch.randn(2, 1, 16, 16)
    hooked = attach(HOOK, network, *names)(x)
    cut = attach(CUT, network, *names)(x)
    assert all(torch.equal(hooked[name], cut[name]) for name in names)


def test_truncation_drops_what_lies_behind_the_deepest_tap():
    cut = attach(CUT, chain(), "0", "2.0")
    assert {name.rsplit(".", 1)[0] for name in cut.state_dict()} == {"backbone.0", "backbone.2.0"}


def test_truncation_runs_nothing_behind_the_deepest_tap():
    network, ran = chain(), []
    network[3].register_forward_hook(lambda *_: ran.append("3"))
    tapped = attach(CUT, network, "2")
    ran.clear()
    tapped(torch.randn(1, 1, 16, 16))
    assert ran == []


class Doubled(nn.Sequential):
    """A container that does more than its layers."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("network", [Residual, Functional])
def test_truncation_refuses_what_is_not_a_chain(network):
    with pytest.raises(
        ShapeError, match="b is not given the unchanged output of a; tap it with forward_hook"
    ):
        attach(CUT, network(), "b")


def test_truncation_refuses_a_container_with_a_hook_of_its_own():
    network = chain()
    network[2].register_forward_hook(lambda _, __, y: 2 * y)
    with pytest.raises(ShapeError, match=r"2 does not return the unchanged output of 2\.2, its last layer"):
        attach(CUT, network, "2.0", "2")


def test_truncation_refuses_a_container_that_adds_work_to_its_layers():
    with pytest.raises(ShapeError, match=r"0 does not return .* of 0\.0, .*; tap it with forward_hook"):
        attach(CUT, nn.Sequential(Doubled(nn.Conv2d(1, 1, 1))), "0.0", "0")


def test_truncation_of_a_container_that_is_one_layer_keeps_its_hook():
    network, x = chain(), torch.randn(1, 1, 16, 16)
    network[2].register_forward_hook(lambda _, __, y: 2 * y)
    assert torch.equal(attach(CUT, network, "2")(x)["2"], attach(HOOK, network, "2")(x)["2"])


def test_truncation_refuses_a_layer_that_runs_twice():
    with pytest.raises(ShapeError, match="a runs 2 times in a forward pass"):
        attach(CUT, Twice(), "b")


def test_truncation_of_a_part_that_is_a_chain_is_fine():
    assert list(attach(CUT, Residual(), "a")(torch.randn(1, 1, 16, 16))) == ["a"]


def test_refusal_comes_on_the_meta_device_too():
    with torch.device("meta"), pytest.raises(ShapeError, match="not a chain"):
        attach(CUT, Residual(), "b")


def test_monais_resnet_is_a_chain():
    plugin = registry.get(Backbone.group, "resnet")(depth=10)
    network, x = plugin.build(IMAGE).eval(), torch.randn(1, 1, 32, 32)
    names = [f.name for f in plugin.features(IMAGE)]
    hooked, cut = attach(HOOK, network, *names)(x), attach(CUT, network, *names)(x)
    assert all(torch.equal(hooked[name], cut[name]) for name in names)


def test_a_tap_that_is_overwritten_in_place_is_copied():
    network, x = chain(), torch.randn(1, 1, 16, 16)
    assert torch.equal(attach(HOOK, network, "0")(x)["0"], network[0](x))


def test_a_tap_that_is_left_alone_is_not_copied():
    network, made = chain(), []
    network[3].register_forward_hook(lambda _, __, y: made.append(y))
    assert attach(HOOK, network, "3")(torch.randn(1, 1, 16, 16))["3"] is made[-1]


def test_a_layer_that_runs_twice_is_told(caplog):
    network, x = Twice(), torch.randn(1, 1, 16, 16)
    strategy = registry.get(TapStrategy.group, HOOK)()
    with caplog.at_level(logging.WARNING), placed(("model", "taps", "twice"), strategy):
        tapped = attach(HOOK, network, "a")
        attach(HOOK, network, "a")
    said = "model.taps.twice: layer a runs 2 times in a forward pass; its last output is tapped"
    assert caplog.text.count("its last output is tapped") == caplog.text.count(said) == 1
    assert torch.equal(tapped(x)["a"], network.a(network.a(x)))


def test_a_layer_that_never_runs_is_refused():
    with pytest.raises(ShapeError, match="layer 'idle' never runs"):
        attach(HOOK, Residual(), "idle")


@pytest.mark.parametrize("strategy", registry.names(TapStrategy.group))
def test_an_unknown_layer_lists_near_matches(strategy):
    with pytest.raises(ShapeError, match=r"no layer '2\.7'; near are 2\.\d, 2\.\d, 2\.\d; `medfuse taps"):
        attach(strategy, chain(), "2.7")


def test_an_unknown_layer_without_near_matches_lists_the_parts():
    with pytest.raises(ShapeError, match="no layer 'stem'; its parts are a, b, idle"):
        attach(HOOK, Residual(), "stem")


def test_every_tap_that_does_not_fire_is_named():
    tapped = attach(HOOK, chain(), "0", "1", "2.0")
    for path in ("0", "2.0"):
        tapped.backbone.get_submodule(path)._forward_hooks.clear()
    with pytest.raises(ShapeError, match=r"taps 0, 2\.0 did not fire"):
        tapped(torch.randn(1, 1, 16, 16))


def test_calling_the_backbone_by_itself_keeps_nothing():
    tapped = attach(HOOK, chain(), "0")
    tapped.backbone(torch.randn(1, 1, 16, 16))
    assert tapped._kept == {}


def test_attaching_changes_neither_weights_nor_statistics():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    before = {name: t.clone() for name, t in network.state_dict().items()}
    attach(HOOK, network, "1")
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
