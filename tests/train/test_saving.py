"""Maps computed again and batches in parts: the same weights, and what running out of memory leads to."""

from functools import partial

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from two_processes import in_two

from medfuse import MedfuseError, registry
from medfuse.core.reporter import Reporter
from medfuse.train.loop import fit
from medfuse.train.objective import Objective
from medfuse.train.saving import Saving
from medfuse.train.settings import TrainSettings
from medfuse.train.together import Together

SEGMENTS = ("first", "second")


class Net(nn.Module):
    """Two blocks and two heads. `room`: patches that fit its memory, for as long as maps are kept or not."""

    def __init__(self, norm="instance", dropout=0.0, room=(99, 99)):
        super().__init__()
        torch.manual_seed(0)
        norms = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d}[norm]
        self.first = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), norms(3, affine=True), nn.ReLU(inplace=True)
        )
        self.second = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Dropout(dropout), nn.ReLU())
        self.head, self.inner = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)
        self.room = room

    def forward(self, image, aux=()):
        first = self.first(image)
        if len(image) > self.room["forward" in vars(self.first)] and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is")
        logits = self.head(self.second(first))
        return (logits, {name: self.inner(first) for name in aux}) if aux else logits


def share(count=4):
    rank, size = Together().rank, Together().size
    return slice(rank * count // size, (rank + 1) * count // size)


def batches(start):
    while True:
        image = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(start))
        yield {"image": image[share()], "label": (image > 0.5).long()[share()], "case": list("abcd")[share()]}
        start += 1


def train(folder, model=None, *, steps=4, say=None, fabric="32-true", **settings):
    """The weights after some steps of Dice with an auxiliary head, and their running mean."""
    model = model or Net()
    schedule = registry.get("medfuse.aux_schedules", "constant")(weight=0.5)
    saved = {}
    fit(
        model,
        fabric=Fabric(accelerator="cpu", devices=1, precision=fabric),
        settings=TrainSettings(
            steps=steps, steps_per_epoch=2, learning_rate=0.05, decay="none", average=0.9, **settings
        ),
        objective=Objective(registry.get("medfuse.losses", "dice_ce")().build(2), ("inner",), schedule),
        batches=batches,
        validate=lambda network: {"dice": 0.5},
        save=lambda kind, network, facts: saved.update({kind: network.state_dict()}),
        folder=folder,
        reporter=Said(say),
        segments=SEGMENTS,
    )
    state = {f"average.{name}": t.clone() for name, t in saved.get("last", {}).items()}
    return {**{name: t.clone() for name, t in model.state_dict().items()}, **state}


class Said(Reporter):
    def __init__(self, lines):
        super().__init__(quiet=True)
        self.lines = lines

    def say(self, line):
        if self.lines is not None:
            self.lines.append(line)


def same(a, b, tolerance=0.0):
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[name], b[name], rtol=0, atol=tolerance) for name in a)
    return True


NETS = {
    "instance": Net,
    "dropout": lambda: Net(dropout=0.5),
    "batch": lambda: Net("batch"),
}


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_maps_computed_again_train_the_same_to_the_last_bit(tmp_path, kind, precision):
    kept = train(tmp_path / "kept", NETS[kind](), fabric=precision)
    again = train(tmp_path / "again", NETS[kind](), fabric=precision, checkpointing=True)
    assert same(kept, again)


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_batch_in_parts_trains_what_the_whole_does(tmp_path, parts, checkpointing):
    whole = train(tmp_path / "whole")
    cut = train(tmp_path / "cut", accumulate=parts, checkpointing=checkpointing)
    assert same(whole, cut, tolerance=1e-5)


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("settings", [{"accumulate": 2}, {"accumulate": 2, "checkpointing": True}])
def test_a_run_in_two_stretches_ends_with_the_weights_of_one(tmp_path, kind, settings):
    whole = train(tmp_path / "whole", NETS[kind](), **settings)
    train(tmp_path / "parts", NETS[kind](), steps=3, **settings)
    assert same(whole, train(tmp_path / "parts", NETS[kind](), **settings))


def test_a_run_that_stops_within_a_step_ends_with_the_weights_of_one_that_does_not(tmp_path):
    class Stops(Net):
        calls = 0

        def forward(self, image, aux=()):
            self.calls += 1
            if self.calls == 10:  # the second part of a later step
                raise KeyboardInterrupt
            return super().forward(image, aux)

    whole = train(tmp_path / "whole", accumulate=2, state_every=1)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", Stops(), accumulate=2, state_every=1)
    assert same(whole, train(tmp_path / "stopped", accumulate=2, state_every=1))


@pytest.mark.skipif(torch.cuda.is_available(), reason="these processes are forked, beside a GPU")
def test_two_processes_with_batches_in_parts_train_what_one_trains(tmp_path):
    alone = train(tmp_path / "alone")
    settings = {"accumulate": 2, "checkpointing": True}
    first, second = in_two(tmp_path, lambda: train(tmp_path / "two", **settings))
    assert same({k: v for k, v in first.items() if k in second}, second)
    assert same(alone, first, tolerance=1e-5)


def test_what_runs_out_of_memory_is_computed_again_and_trains_the_same(tmp_path):
    said = []
    expected = train(tmp_path / "roomy", Net("batch"))
    found = train(tmp_path / "tight", Net("batch", room=(3, 4)), say=said)
    assert same(expected, found)
    assert [line for line in said if "memory" in line] == [
        "the device's memory is too small: going on with train.checkpointing: true"
    ]


def test_what_still_runs_out_of_memory_goes_in_parts(tmp_path):
    said = []
    expected = train(tmp_path / "roomy")
    found = train(tmp_path / "tight", Net(room=(0, 1)), say=said)
    assert same(expected, found, tolerance=1e-5)
    assert [line.rpartition("train.")[2] for line in said if "memory" in line] == [
        "checkpointing: true",
        "accumulate: 2",
        "accumulate: 4",
    ]


@pytest.mark.parametrize(
    ("net", "settings", "advice"),
    [
        (
            {"room": (3, 3)},
            {"checkpointing": False, "accumulate": 1},
            "checkpointing: true and .*accumulate: 4",
        ),
        ({"room": (3, 3)}, {"checkpointing": True, "accumulate": 1}, "set train.accumulate: 4"),
        ({"room": (3, 3), "norm": "batch"}, {}, "set train.accumulate: 4"),
        ({"room": (0, 0)}, {}, "a smaller sample.patch_size, as `medfuse init --budget`"),
    ],
)
def test_a_step_that_fits_in_no_way_is_told_with_what_is_left_to_do(tmp_path, net, settings, advice):
    with pytest.raises(MedfuseError, match=rf"step 1 takes more memory than the device has .*{advice}"):
        train(tmp_path, Net(**net), **settings)


def test_of_several_processes_none_goes_on_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(Together, "size", 2)
    monkeypatch.setattr(Together, "gather", lambda self, tensor: tensor)
    monkeypatch.setattr("medfuse.train.loop.Together.start_alike", lambda *_: None)
    with pytest.raises(MedfuseError, match=r"set train\.checkpointing: true and train\.accumulate: 2"):
        train(tmp_path, Net(room=(1, 2)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its compiler
@pytest.mark.parametrize("settings", [{"checkpointing": True}, {"checkpointing": True, "accumulate": 2}])
def test_compiled_it_trains_the_same(tmp_path, monkeypatch, settings):
    compiler = partial(torch.compile, backend="aot_eager")  # which needs no C++
    monkeypatch.setattr("medfuse.train.loop.torch.compile", compiler)
    said = []
    expected = train(tmp_path / "as_it_is", Net("batch"), **settings)
    found = train(tmp_path / "compiled", Net("batch"), say=said, compile=True, **settings)
    assert same(expected, found, tolerance=1e-5)
    assert not [line for line in said if "not compiled" in line]


def test_without_a_setting_nothing_changes_where_there_is_memory():
    model = Net()
    with Saving(model, TrainSettings(steps=1), SEGMENTS) as saving:
        assert not any("forward" in vars(module) for module in model.modules())
        assert saving.around(model) is model
