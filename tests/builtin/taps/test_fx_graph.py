"""Traced graphs: only what the taps need, the hooks' outputs to the last bit, and what is refused."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from medfuse import registry
from medfuse.api import Backbone, FeatureInfo, ImageInfo, TapStrategy
from medfuse.core.errors import ShapeError
from medfuse.model.trial import try_out

IMAGE = ImageInfo(1, (16, 16), (1.0, 1.0))


def attach(strategy: str, network: nn.Module, *names: str, image: ImageInfo = IMAGE) -> nn.Module:
    taps = [FeatureInfo(name, 1, (1, 1)) for name in names]
    return registry.get(TapStrategy.group, strategy)().attach(network, taps, image)


def assert_equal_to_hooks(network: nn.Module, *names: str, image: ImageInfo = IMAGE) -> nn.Module:
    """In training and in inference; returns the graph."""
    traced = attach("fx_graph", copy.deepcopy(network), *names, image=image)
    hooked, x = attach("forward_hook", network, *names, image=image), torch.randn(2, 1, *image.patch_size)
    for mode in (True, False):
        ours, theirs = traced.train(mode)(x), hooked.train(mode)(x)
        assert list(ours) == list(theirs) == list(names)
        assert all(torch.equal(ours[name], theirs[name]) for name in names)
    return traced


def layers_of(tapped: nn.Module) -> set[str]:
    return {name.rsplit(".", 1)[0].removeprefix("backbone.") for name in tapped.state_dict()}


class Crossed(nn.Module):
    """Skip connections, a layer that overwrites a map without using its result, an optional argument."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.act, self.last = nn.ReLU(inplace=True), nn.Conv2d(6, 2, 1)

    def forward(self, x, mask=None):
        if mask is not None:
            x = x * mask
        a = self.a(x)
        b, c = self.b(a), self.c(a)
        self.act(a)
        return self.last(torch.cat([b + c, a], 1))


class Asks(nn.Module):
    """Its code depends on a value, after layer `a`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

    def forward(self, x):
        x = self.a(x)
        if x.shape[0] > 100:
            x = x.flip(2)
        return self.b(x)


class Mistaken(Asks):
    """Goes another way with tensors than when it is traced."""

    def forward(self, x):
        return self.b(self.a(x)) if isinstance(x, torch.Tensor) else self.b(x)


class Drops(Asks):
    """Drops out by a function, whose `training` a graph would freeze."""

    def forward(self, x):
        return self.b(functional.dropout(self.a(x), 0.5, self.training))


class Around(nn.Module):
    """A network whose part has the name that the graph gives to the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())

    def forward(self, x):
        return self.backbone(x)


class Late(nn.Module):
    """A layer whose output is overwritten before its module returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Overwritten()
        self.last = nn.Conv2d(2, 1, 1)

    def forward(self, x):
        return self.last(self.block(x))


class Overwritten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.conv(x)
        self.act(x)
        return x


@pytest.mark.parametrize(
    "names", [("a",), ("b",), ("act",), ("last",), ("last", "a"), ("a", "act"), ("b", "c", "last")]
)
def test_a_graph_with_skips_equals_hooks_to_the_last_bit(names):
    assert_equal_to_hooks(Crossed(), *names)


def test_a_module_that_overwrites_what_it_returns_equals_hooks():
    assert_equal_to_hooks(Late(), "block.conv", "block")


@pytest.mark.parametrize(("name", "kept"), [("a", {"a"}), ("c", {"a", "c"}), ("last", {*"abc", "last"})])
def test_only_what_a_tap_needs_is_kept(name, kept):
    assert layers_of(attach("fx_graph", Crossed(), name)) == kept


def test_a_map_is_copied_only_where_it_is_overwritten():
    assert ".clone(" in attach("fx_graph", Crossed(), "last", "a").code
    assert ".clone(" not in attach("fx_graph", Crossed(), "a").code  # the layer that overwrites it is gone


def test_the_inside_of_a_residual_block_equals_hooks():
    plugin = registry.get(Backbone.group, "resnet")(depth=10)
    image = ImageInfo(1, (32, 32), (1.0, 1.0))
    names = ("layer1.0.conv1", "layer1.0.bn2", "layer2")
    traced = assert_equal_to_hooks(plugin.build(image), *names, image=image)
    assert not any(layer.startswith(("layer3", "layer4")) for layer in layers_of(traced))


def test_a_part_that_is_itself_called_backbone_is_no_trouble():
    assert_equal_to_hooks(Around(), "backbone.0", "backbone")


def test_copies_and_unpickled_graphs_agree():
    tapped, x = attach("fx_graph", Crossed(), "a", "last"), torch.randn(1, 1, 16, 16)
    for copied in (copy.deepcopy(tapped), pickle.loads(pickle.dumps(tapped))):
        assert all(torch.equal(copied(x)[name], tapped(x)[name]) for name in ("a", "last"))


def test_gradients_reach_what_is_kept():
    tapped = attach("fx_graph", Crossed(), "c")
    tapped(torch.randn(1, 1, 16, 16))["c"].sum().backward()
    assert all(p.grad is not None for p in tapped.parameters())


def test_weights_have_the_names_that_hooks_give_them():
    hooked = attach("forward_hook", Crossed(), "last")
    assert attach("fx_graph", Crossed(), "last").state_dict().keys() == hooked.state_dict().keys()


def test_a_network_without_weights_is_traced_too():
    network = try_out(lambda: attach("fx_graph", Crossed(), "last"), lambda tapped: tapped)
    assert all(p.is_meta for p in network.parameters())


def test_code_that_asks_for_values_is_refused():
    with pytest.raises(ShapeError, match=r"cannot be traced \(TraceError: .*; tap it with forward_hook"):
        attach("fx_graph", Asks(), "b")


def test_code_behind_the_last_tap_may_ask_for_values():
    assert_equal_to_hooks(Asks(), "a")


def test_a_network_that_is_traced_along_another_way_is_refused():
    with pytest.raises(ShapeError, match="traced along another way than it runs"):
        attach("fx_graph", Mistaken(), "b")


def test_a_function_that_depends_on_the_mode_is_refused():
    with pytest.raises(ShapeError, match="otherwise in training than in inference"):
        attach("fx_graph", Drops(), "b")


def test_a_function_that_depends_on_the_mode_may_come_after_the_last_tap():
    assert_equal_to_hooks(Drops(), "a")


def test_attaching_leaves_the_mode_as_it_is():
    assert not any(m.training for m in attach("fx_graph", Crossed().eval(), "a").modules())
