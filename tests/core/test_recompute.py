"""Maps that are computed again: the same gradients, chance and statistics, in less memory."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from alive import Peak
from torch import nn

from medfuse import MedfuseError
from medfuse.core.recompute import in_parts, recomputed


class Drawn(nn.Module):
    """Draws by Python's and numpy's chance, as some networks do."""

    def forward(self, x):
        return x * (random.random() + np.random.rand())


class Counted(nn.Conv2d):
    """Counts its forward passes in a buffer that it computes with, as a spectral norm does."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("passes", torch.ones(()))

    def forward(self, x):
        self.passes.mul_(1.5)
        return super().forward(x) * self.passes.item()


def block(kind, channels=4):
    last = {
        "plain": nn.Identity,
        "dropout": lambda: nn.Dropout(0.5),
        "drawn": Drawn,
        "batch norm": lambda: nn.BatchNorm2d(channels),
        "mean of all": lambda: nn.BatchNorm2d(channels, momentum=None),
        "counted": lambda: Counted(channels, channels, 1),
        "instance norm": lambda: nn.InstanceNorm2d(channels, affine=True),
    }[kind]()
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), last, nn.LeakyReLU(0.1, inplace=True))


def network(kind, blocks=3):
    torch.manual_seed(0)
    return nn.Sequential(*(block(kind) for _ in range(blocks)))


def image(batch=4, size=8):
    return torch.randn(batch, 4, size, size, generator=torch.Generator().manual_seed(1))


def learn(model, called=None, x=None):
    """Gradients of the image and the weights, and all that the model holds afterwards."""
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    x = (image() if x is None else x).clone().requires_grad_()
    (called or model)(x).square().mean().backward()
    found = {"image": x.grad, **{name: p.grad for name, p in model.named_parameters()}}
    return found, {name: t.clone() for name, t in model.state_dict().items()}


def same(a, b, tolerance=0.0):
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[name], b[name], rtol=0, atol=tolerance) for name in a)
    return True


KINDS = ["plain", "dropout", "drawn", "batch norm", "mean of all", "counted", "instance norm"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("half", [False, True])
def test_gradients_and_statistics_are_those_of_keeping_all(kind, half):
    kept, again = network(kind), network(kind)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        expected, state = learn(kept)
        with recomputed(again, ["0", "1", "2"]):
            found, moved = learn(again)
    assert same(expected, found)
    assert same(state, moved)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["plain", "dropout", "batch norm", "instance norm"])
def test_on_a_gpu_chance_and_statistics_are_the_same_too(kind):
    kept, again = network(kind).cuda(), network(kind).cuda()
    expected, state = learn(kept, x=image().cuda())
    with recomputed(again, ["0", "1", "2"]):
        found, moved = learn(again, in_parts(again, 1, again), x=image().cuda())
    assert same(expected, found, tolerance=1e-6)
    assert same(state, moved, tolerance=1e-6)


def test_chance_goes_on_as_if_nothing_were_computed_again():
    drawn = []
    for segments in ([], ["0", "1"]):
        model = network("dropout")
        with recomputed(model, segments):
            learn(model)
        drawn.append((torch.rand(3), random.random(), np.random.rand()))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert drawn[0][1:] == drawn[1][1:]


def test_memory_falls_to_what_segments_are_given():
    model, x = nn.Sequential(*(nn.Sequential(block("plain"), block("plain")) for _ in range(6))), image(2, 64)
    peaks = []
    for segments in ([], [str(n) for n in range(6)]):
        model.zero_grad()
        with recomputed(model, segments), Peak() as peak:
            model(x).mean().backward()
        peaks.append(peak.most)
    assert peaks[1] < 0.7 * peaks[0]


def test_memory_of_a_batch_in_parts_is_that_of_a_part():
    model, x = network("plain", blocks=6), image(4, 64)
    peaks = []
    for parts in (1, 2, 4):
        model.zero_grad()
        with Peak() as peak:
            in_parts(model, parts, model)(x).mean().backward()
        peaks.append(peak.most)
    assert peaks[1] < 0.7 * peaks[0]
    assert peaks[2] < 0.7 * peaks[1]


def test_both_ways_together_take_less_than_each():
    model, x = nn.Sequential(*(nn.Sequential(block("plain"), block("plain")) for _ in range(6))), image(4, 64)
    segments, peaks = [str(n) for n in range(6)], {}
    for paths, parts in (([], 1), (segments, 1), ([], 4), (segments, 4)):
        model.zero_grad()
        with recomputed(model, paths), Peak() as peak:
            in_parts(model, parts, model)(x).mean().backward()
        peaks[bool(paths), parts] = peak.most
    assert peaks[True, 4] < 0.9 * peaks[False, 4] < 0.9 * peaks[False, 1]
    assert peaks[True, 4] < 0.9 * peaks[True, 1]


@pytest.mark.parametrize("kind", ["plain", "instance norm"])
@pytest.mark.parametrize("parts", [2, 3, 4, 9])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(kind, parts):
    kept, cut = network(kind), network(kind)
    expected, _ = learn(kept)
    found, _ = learn(cut, in_parts(cut, parts, cut))
    assert same(expected, found, tolerance=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_in_parts_is_the_same_with_maps_computed_again(kind):
    kept, again = network(kind), network(kind)
    expected, state = learn(kept, in_parts(kept, 2, kept))
    with recomputed(again, ["0", "1", "2"]):
        found, moved = learn(again, in_parts(again, 2, again))
    assert same(expected, found)
    assert same(state, moved)


def test_statistics_of_a_batch_norm_are_those_of_each_part():
    cut, by_hand = network("batch norm"), network("batch norm")
    _, state = learn(cut, in_parts(cut, 2, cut))
    for part in image().chunk(2):
        by_hand(part)
    assert same(state, by_hand.state_dict())


def test_outputs_of_parts_are_put_together_whatever_holds_them():
    model = nn.Conv2d(4, 2, 1)

    def heads(x, names=()):
        return model(x), {name: 2 * model(x) for name in names}

    logits, inner = in_parts(heads, 2, model)(image(), names=("a", "b"))
    assert torch.allclose(logits, model(image()))
    assert torch.allclose(inner["b"], 2 * model(image()))


def test_a_hook_on_a_segment_fires_once_and_one_inside_again():
    model, fired = network("plain"), []
    model[1].register_forward_hook(lambda *_: fired.append("on"))
    model[1][0].register_forward_hook(lambda *_: fired.append("inside"))
    with recomputed(model, ["1"]):
        learn(model)
    assert fired == ["inside", "on", "inside"]


def test_without_gradients_nothing_is_kept_or_changed():
    model = network("batch norm").eval()
    with recomputed(model, ["0", "1"]), torch.no_grad():
        assert torch.equal(model(image()), network("batch norm").eval()(image()))


def test_afterwards_the_model_is_as_it_was():
    model = network("plain")
    with recomputed(model, ["0", "1"]):
        assert "forward" in vars(model[0])
    assert "forward" not in vars(model[0])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_weights_of_its_own(copied):
    model = network("plain")
    with recomputed(model, ["0"]):
        twin = copied(model)
        nn.init.zeros_(twin[0][0].weight)
        assert not torch.equal(twin(image()), model(image()))


@pytest.mark.parametrize("when", ["inside", "later"])
def test_what_overwrites_its_input_is_named(when):
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(4, 4, 1), nn.ReLU()

        def forward(self, x):
            return self.act(self.conv(x.add_(1) if when == "inside" else x))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Identity(), Overwrites()

        def forward(self, x):
            x = 2 * x
            made = self.second(x)
            if when == "later":
                x.add_(1)
            return made

    model = Net()
    message = {  # what is overwritten later torch finds by itself
        "inside": r"what second is given is overwritten in place.*set train\.checkpointing: false",
        "later": "modified by an inplace operation",
    }
    with recomputed(model, ["second"]), pytest.raises((MedfuseError, RuntimeError), match=message[when]):
        learn(model)


def test_it_is_compiled_with_the_same_gradients():
    kept, again = network("instance norm"), network("instance norm")
    expected, _ = learn(kept)
    with recomputed(again, ["0", "1", "2"]):
        found, _ = learn(again, torch.compile(again, backend="aot_eager"))
    assert same(expected, found, tolerance=1e-6)
