"""Taps of odd networks: calls, elements, channels last, branches, layers of one mode, layers that fail."""

import copy
import pickle
import random
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from medfuse import registry
from medfuse.api import FeatureInfo, ImageInfo, TapStrategy
from medfuse.core.errors import ShapeError

IMAGE = ImageInfo(1, (16, 16), (1.0, 1.0))
EVERY = ["forward_hook", "sequential_truncation", "fx_graph"]


def attach(strategy: str, network: nn.Module, *names: str, last=(), image: ImageInfo = IMAGE) -> nn.Module:
    taps = [FeatureInfo(name, 1, (1, 1), name in last) for name in names]
    return registry.get(TapStrategy.group, strategy)().attach(network, taps, image)


def conv(a: int = 1, b: int = 1, **settings) -> nn.Conv2d:
    return nn.Conv2d(a, b, 3, padding=1, **settings)


class Net(nn.Module):
    """Convolutions a, b and c of one channel, and what `run` does with them."""

    def __init__(self, run, **parts) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = conv(), conv(), conv()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def example(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 1, 16, 16, generator=torch.Generator().manual_seed(1))


# ---- calls


def thrice(net, x):
    return net.b(net.a(net.a(net.a(x))))


@pytest.mark.parametrize("strategy", ["forward_hook", "fx_graph"])
def test_a_call_is_tapped_by_its_number_and_the_last_by_default(strategy):
    network, x = Net(thrice), example()
    made = attach(strategy, copy.deepcopy(network), "a", "a#1", "a#2", "a#3")(x)
    first = network.a(x)
    assert torch.equal(made["a#1"], first)
    assert torch.equal(made["a#2"], network.a(first))
    assert torch.equal(made["a#3"], network.a(network.a(first)))
    assert torch.equal(made["a"], made["a#3"])


@pytest.mark.parametrize("strategy", EVERY)
def test_a_layer_that_runs_once_has_a_first_call(strategy):
    network, x = nn.Sequential(conv(), conv()), example()
    made = attach(strategy, copy.deepcopy(network), "0#1")(x)
    assert torch.equal(made["0#1"], network[0](x))


def test_a_returned_call_is_found_by_its_number():
    def run(net, x):
        first = net.a(x)
        return [net.a(first), first]

    made = attach("native", Net(run), "a#1", "a#2")(example())
    assert not torch.equal(made["a#1"], made["a#2"])
    assert torch.equal(made["a#2"], attach("forward_hook", Net(run), "a")(example())["a"])


@pytest.mark.parametrize("strategy", ["forward_hook", "fx_graph"])
def test_a_call_that_there_is_not_is_refused_with_how_many_there_are(strategy):
    with pytest.raises(ShapeError, match="layer 'a' runs 3 times in a forward pass, so there is no a#4"):
        attach(strategy, Net(thrice), "a#4")


# ---- elements


class Pair(NamedTuple):
    fine: torch.Tensor
    coarse: torch.Tensor


@dataclass
class Output:
    fine: torch.Tensor
    coarse: torch.Tensor


class Makes(nn.Module):
    def __init__(self, kind) -> None:
        super().__init__()
        self.conv, self.kind = conv(), kind

    def forward(self, x):
        x = self.conv(x)
        return self.kind(x, x[..., ::2, ::2])


RETURNS = {
    "tuple": (lambda fine, coarse: (fine, coarse), "[1]"),
    "from the end": (lambda fine, coarse: (fine, coarse), "[-1]"),
    "list": (lambda fine, coarse: [fine, None, coarse], "[2]"),
    "dict": (lambda fine, coarse: {"fine": fine, "out.4": coarse}, "[out.4]"),
    "numbers as keys": (lambda fine, coarse: {"1": fine, 2: coarse}, "[2]"),
    "named tuple": (Pair, "[1]"),
    "dataclass": (Output, "[coarse]"),
    "nested": (lambda fine, coarse: {"all": [fine, {"deep": coarse}]}, "[all][1][deep]"),
}


@pytest.mark.parametrize("strategy", ["forward_hook", "fx_graph", "sequential_truncation"])
@pytest.mark.parametrize("kind", RETURNS)
def test_an_element_of_what_a_layer_returns_is_tapped_by_its_key(kind, strategy):
    give, key = RETURNS[kind]
    network, x = nn.Sequential(conv(), Makes(give)), example()
    name = f"1{key}"
    tapped = attach(strategy, copy.deepcopy(network), name, "0")
    fine = network[1].conv(network[0](x))
    for module in (tapped, copy.deepcopy(tapped)):
        assert torch.equal(module(x)[name], fine[..., ::2, ::2])


@pytest.mark.parametrize("strategy", ["forward_hook", "fx_graph", "sequential_truncation"])
def test_a_tuple_without_a_key_is_refused_with_its_elements(strategy):
    network = nn.Sequential(conv(), Makes(lambda fine, coarse: (fine, coarse)))
    with pytest.raises(
        ShapeError, match=r"makes a tuple rather than a tensor; name an element of it: 1\[0\], 1\[1\]"
    ):
        attach(strategy, network, "1")


@pytest.mark.parametrize("strategy", ["forward_hook", "sequential_truncation"])
def test_an_element_that_there_is_not_is_refused_with_those_there_are(strategy):
    network = nn.Sequential(conv(), Makes(lambda fine, coarse: {"fine": fine, "coarse": coarse}))
    with pytest.raises(ShapeError, match=r"without 1\[out\]; name one of 1\[fine\], 1\[coarse\]"):
        attach(strategy, network, "1[out]")


@pytest.mark.parametrize("strategy", ["forward_hook", "fx_graph"])
def test_an_element_stays_though_the_list_is_emptied_later(strategy):
    def run(net, x):
        made = net.m(x)
        made.reverse()
        return net.b(made.pop(0) + made.pop(0).mean())

    network = Net(run, m=Makes(lambda fine, coarse: [fine, coarse]))
    made = attach(strategy, copy.deepcopy(network), "m[0]", "m[1]")(example())
    assert torch.equal(made["m[0]"], network.m(example())[0])
    assert torch.equal(made["m[1]"], network.m(example())[1])


def test_an_element_that_is_overwritten_is_copied():
    network = Net(
        lambda net, x: net.b(net.m(x)["fine"].relu_()), m=Makes(lambda f, c: {"fine": f, "coarse": c})
    )
    made = attach("forward_hook", copy.deepcopy(network), "m[fine]")(example())["m[fine]"]
    assert torch.equal(made, network.m.conv(example()))


# ---- channels last


def swinish(net, x):
    return net.p(net.n(x.movedim(1, -1)).movedim(-1, 1))


def last_network() -> nn.Module:
    return Net(
        lambda net, x: swinish(net, net.e(x)),
        e=nn.Conv2d(1, 6, 4, 4),
        n=nn.LayerNorm(6),
        p=nn.Conv2d(6, 2, 1),
    )


@pytest.mark.parametrize("strategy", ["forward_hook", "fx_graph"])
def test_a_channels_last_map_is_handed_on_as_its_layer_makes_it(strategy):
    network = last_network()
    tapped = attach(strategy, copy.deepcopy(network), "n", "e", last=("n",))
    real = network.n(network.e(example()).movedim(1, -1))
    for module in (tapped, copy.deepcopy(tapped)):
        made = module(example())
        assert torch.equal(made["n"], real)
        assert made["n"].movedim(-1, 1).shape == made["e"].shape == (2, 6, 4, 4)
    made["n"].sum().backward()


def test_truncation_and_native_taps_hand_channels_last_maps_on_as_they_are_too():
    chain = nn.Sequential(nn.Conv2d(1, 6, 4, 4), Last(), nn.Linear(6, 3))
    real = chain(example())
    cut = attach("sequential_truncation", copy.deepcopy(chain), "1", "2", last=("1", "2"))(example())
    assert torch.equal(cut["2"], real)
    returned = Net(lambda net, x: [net.chain(x)], chain=chain)
    made = attach("native", returned, "chain.2", last=("chain.2",))(example())
    assert torch.equal(made["chain.2"], real)


class Last(nn.Module):
    def forward(self, x):
        return x.movedim(1, -1)


def test_a_traced_graph_with_all_of_it_survives_pickling():
    tapped = attach("fx_graph", nn.Sequential(conv(), nn.Tanh()), "0#1", "1")
    x = example()
    again = pickle.loads(pickle.dumps(tapped))
    assert all(torch.equal(again(x)[name], tapped(x)[name]) for name in ("0#1", "1"))


# ---- one mode only


@pytest.mark.parametrize("strategy", [*EVERY, "native"])
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_that_runs_in_one_mode_only_is_refused(strategy, training):
    def run(net, x):
        x = net.a(x)
        return [x, net.b(x)] if net.training == training else [x]

    network = Net(run)
    words = "runs in (training|inference) only|does not return|other maps in training|not a chain"
    with pytest.raises(ShapeError, match=words):
        attach(strategy, network, "a", "b")
    assert list(attach(strategy, Net(run), "a")(example())) == ["a"]


def test_a_layer_that_makes_another_shape_in_training_is_refused():
    network = Net(lambda net, x: net.b(net.a(x if net.training else x[..., ::2])))
    with pytest.raises(
        ShapeError, match=r"shape \[2, 1, 16, 16\] in training and of \[2, 1, 16, 8\] in inference"
    ):
        attach("forward_hook", network, "a")


# ---- branches


def by_value(net, x):
    x = net.a(x)
    return net.b(x if x.mean() > 0 else -x)


def by_number(net, x):
    x = net.a(x)
    return net.b(x if float(x.max()) > 5 else x.relu())


def by_positions(net, x):
    x = net.a(x)
    return net.b(x if len(x.nonzero()) else x + 1)


def by_array(net, x):
    x = net.a(x)
    return net.b(x if x.detach().numpy().max() > 5 else x.relu())


def by_list(net, x):
    return net.a(x if x[0, 0, 0].tolist()[0] < 5 else -x)


def by_weight(net, x):
    x = net.a(x)
    return net.b(x if net.a.bias.item() > 0 else -x)


def by_mode(net, x):
    x = net.a(x)
    return net.b(x if net.training else 2 * x)


def by_batch(net, x):
    x = net.a(x)
    return net.b(x if len(x) > 1 else 2 * x)


def by_size(net, x):
    x = net.a(x)
    return net.b(x if x.shape[2] == x.shape[3] else 2 * x)


def by_chance(net, x):
    x = net.a(x)
    return net.b(x if random.random() < 2 else -x)


@pytest.mark.parametrize(
    "run",
    [by_value, by_number, by_positions, by_array, by_list, by_weight, by_mode, by_batch, by_size, by_chance],
)
def test_truncation_refuses_a_branch_between_its_layers(run):
    with pytest.raises(ShapeError, match="not a chain of its layers"):
        attach("sequential_truncation", Net(run), "a", *(() if run is by_list else "b"))


@pytest.mark.parametrize("run", [by_value, by_mode, by_batch, by_size, by_chance])
def test_truncation_accepts_a_branch_behind_its_last_tap(run):
    network, x = Net(run), example()
    made = attach("sequential_truncation", copy.deepcopy(network), "a")(x)
    assert torch.equal(made["a"], network.a(x))


def test_truncation_accepts_a_branch_inside_a_layer():
    network = nn.Sequential(conv(), Net(by_value), conv())
    hooked = attach("forward_hook", copy.deepcopy(network), "2").eval()
    cut = attach("sequential_truncation", network, "2").eval()
    for x in (example(), -example(), example(1) + 5, example(1) - 5):
        assert torch.equal(cut(x)["2"], hooked(x)["2"])


def test_truncation_refuses_a_network_whose_hook_changes_the_image():
    network = nn.Sequential(conv(), conv())
    network.register_forward_pre_hook(lambda _, args: (2 * args[0],))
    with pytest.raises(ShapeError, match="0 is not given the unchanged output of the image"):
        attach("sequential_truncation", network, "0")


# ---- layers that cannot run on such an image


def deep(net, x):
    return net.far(net.b(net.a(x)))


@pytest.mark.parametrize(
    "far", [lambda: nn.Conv2d(1, 1, 40), lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.InstanceNorm2d(1))]
)
@pytest.mark.parametrize("strategy", ["sequential_truncation", "fx_graph"])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_what_lies_behind_the_last_tap_need_not_run(far, strategy, device):
    with torch.device(device):
        network = Net(deep, far=far())
        tapped = attach(strategy, network, "a", "b")
    assert not any("far" in name for name, _ in tapped.named_parameters())


@pytest.mark.parametrize("strategy", ["sequential_truncation", "fx_graph", "forward_hook"])
def test_what_lies_before_the_last_tap_has_to_run(strategy):
    with pytest.raises(ShapeError, match="fails on a batch of 2×1×16×16"):
        attach(strategy, Net(lambda net, x: net.b(net.far(net.a(x))), far=nn.Conv2d(1, 1, 40)), "b")


# ---- and they learn


ODD = {
    "a shared activation": lambda: Net(lambda n, x: n.b(n.act(n.a(n.act(x)))), act=nn.PReLU()),
    "tied weights": lambda: tied(),
    "checkpointing": lambda: Net(lambda n, x: checkpoint(n.b, n.a(x), use_reentrant=False)),
    "in place": lambda: Net(lambda n, x: n.c(n.b(n.a(x).relu_()).mul_(2))),
    "weight norm": lambda: Net(lambda n, x: n.b(n.a(x)), b=nn.utils.parametrizations.weight_norm(conv())),
    "a value": lambda: Net(lambda n, x: n.b(n.a(x) / (float(x.abs().mean()) + 1))),
    "a list of layers": lambda: Net(lambda n, x: n.b(n.more[0](n.a(x))), more=nn.ModuleList([conv()])),
    "double": lambda: Net(lambda n, x: n.b(n.a(x).double().float())),
}


def tied() -> nn.Module:
    network = Net(lambda net, x: net.b(net.a(x)))
    network.b.weight = network.a.weight
    return network


@pytest.mark.parametrize("name", ODD)
def test_every_weight_on_the_way_learns_after_taps_were_tried_out(name):
    network = ODD[name]()
    own = {id(p) for p in network.parameters()}
    tapped = attach("forward_hook", network, "b")
    assert {id(p) for p in tapped.parameters()} == own
    before = [p.detach().clone() for p in tapped.parameters()]
    optimizer = torch.optim.SGD(tapped.parameters(), 0.1)
    tapped(example())["b"].square().mean().backward()
    optimizer.step()
    learned = [p for p in tapped.parameters() if p.grad is not None]
    assert all(
        torch.equal(p, b) == (p.grad is None or not p.grad.any()) for p, b in zip(tapped.parameters(), before)
    )
    assert len(learned) >= 3
