"""A run that is stopped and started again is the run that was never stopped, to the last bit."""

import hashlib
import io
import random

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from medfuse import CheckpointError
from medfuse.core.reporter import Reporter
from medfuse.train.course import Progress
from medfuse.train.loop import fit
from medfuse.train.objective import Objective
from medfuse.train.settings import TrainSettings
from medfuse.train.state import (
    how_far,
    newest_state,
    previous_state,
    read_state,
    seed_chance,
    write_state,
)

STEPS = 8
FROZEN = {"conv.bias": {"freeze": 1}}


class Drawing(nn.Module):
    """One convolution behind everything that draws by chance."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)

    def forward(self, image):
        if self.training:
            image = nn.functional.dropout(image) * (1 + random.random()) + float(np.random.rand())
        return self.norm(self.conv(image))


class Killed(BaseException):
    pass


def batches(start, stop_before=None):
    step = start
    while step != stop_before:
        image = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(step))
        yield {"image": image, "label": (image > 0).long(), "case": ["a", f"b{step}"]}
        step += 1
    raise Killed


def loss(logits, label):
    return nn.functional.cross_entropy(logits, label[:, 0])


def train(folder, *, stop_before=None, objective=None, said=None, batches=batches, **settings) -> list:
    """Every tensor of the network and of its average that training saves last."""
    seed_chance(1)
    kept: dict[str, dict] = {}
    values = {"steps": STEPS, "steps_per_epoch": 4, "average": 0.9, "optimizer": "adamw", "state_every": 3}
    reporter = Reporter(quiet=True)
    reporter.say = (said if said is not None else []).append
    fit(
        Drawing(),
        fabric=Fabric(accelerator="cpu", devices=1),
        settings=TrainSettings(**{**values, **settings}),
        objective=objective or Objective(loss),
        batches=lambda start: batches(start, stop_before),
        validate=lambda network: {"dice": float(network.conv.weight.sum())},
        save=lambda kind, network, _: kept.update(
            {kind: {k: v.clone() for k, v in network.state_dict().items()}}
        ),
        folder=folder,
        reporter=reporter,
    )
    state = read_state(folder)
    return [*kept["last"].values(), *state["model"].values(), *state["average"].values()]


def equal(some: list, others: list) -> bool:
    return len(some) == len(others) and all(torch.equal(a, b) for a, b in zip(some, others))


@pytest.mark.parametrize("step", range(STEPS))
def test_stopped_before_any_step_a_run_ends_with_the_same_weights(tmp_path, step, whole):
    parts = FROZEN
    with pytest.raises(Killed):
        train(tmp_path / "parts", stop_before=step, parts=parts)
    assert equal(train(tmp_path / "parts", parts=parts), whole)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"), parts=FROZEN)


def test_stopped_again_and_again_it_still_does(tmp_path):
    whole = train(tmp_path / "whole", state_every=1)
    for step in range(1, STEPS):
        with pytest.raises(Killed):
            train(tmp_path / "parts", stop_before=step, state_every=1)
    assert equal(train(tmp_path / "parts", state_every=1), whole)


def test_what_a_step_draws_is_its_own(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "parts", stop_before=5)
    monkeypatch.setattr("medfuse.train.step.seed_chance", lambda *_: None)
    assert not equal(train(tmp_path / "parts"), whole)


def test_the_best_so_far_is_remembered(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, stop_before=6)
    progress = Progress(**read_state(tmp_path)["progress"])
    assert progress.best_step == 4
    assert progress.best > -np.inf


# ------------------------------------------------------------------------------------------- on the disk


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(("harm", "what"), [(damage, "damaged"), (lambda path: path.unlink(), "missing")])
def test_the_state_before_is_used_where_the_newest_is_lost(tmp_path, harm, what):
    for step in (1, 2):
        write_state(tmp_path, {"step": step})
    harm(newest_state(tmp_path))
    said = []
    assert read_state(tmp_path, said.append) == {"step": 1}
    assert f"training_state.pt: is {what}; carrying on from training_state.previous.pt" in said[0]


def test_a_run_goes_on_from_the_state_before_and_ends_with_the_same_weights(tmp_path):
    whole, said = train(tmp_path / "whole"), []
    with pytest.raises(Killed):
        train(tmp_path / "parts", stop_before=7)
    damage(newest_state(tmp_path / "parts"))
    assert equal(train(tmp_path / "parts", said=said), whole)
    assert said[1] == "carrying on from step 4"


@pytest.mark.parametrize("size", [0, 10, 200])
def test_states_that_are_all_damaged_are_one_line(tmp_path, size):
    write_state(tmp_path, {"tensor": torch.zeros(100)})
    newest_state(tmp_path).write_bytes(newest_state(tmp_path).read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"training_state\.pt: cannot be read .* delete it"):
        read_state(tmp_path)


def test_a_state_is_never_absent_while_the_next_is_written(tmp_path, monkeypatch):
    write_state(tmp_path, {"step": 1})
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        write_state(tmp_path, {"step": 2})
    assert newest_state(tmp_path).exists()
    assert previous_state(tmp_path).exists()
    assert read_state(tmp_path) == {"step": 1}


@pytest.mark.parametrize(
    "state",
    [
        [1, 2],
        3,
        None,
        {},
        {"progress": 5},
        {"progress": {"step": 1}},
        {"progress": {"step": "1", "seconds": 0.0}},
        {"progress": {"step": -1, "seconds": 0.0}},
        {"progress": {"step": 1, "seconds": float("nan")}},
    ],
)
def test_a_state_with_the_right_hash_that_is_none_is_one_line(tmp_path, state):
    content = io.BytesIO()
    torch.save(state, content)
    data = content.getvalue()
    newest_state(tmp_path).write_bytes(data + hashlib.sha256(data).digest())
    with pytest.raises(CheckpointError, match=r"training_state\.pt: "):
        how_far(tmp_path)


def test_code_in_a_state_is_not_run(tmp_path):
    class Runs:
        def __reduce__(self):
            return open, (str(tmp_path / "trace"), "w")

    content = io.BytesIO()
    torch.save({"progress": Runs()}, content)
    data = content.getvalue()
    newest_state(tmp_path).write_bytes(data + hashlib.sha256(data).digest())
    with pytest.raises(CheckpointError, match=r"training_state\.pt: cannot be read"):
        read_state(tmp_path)
    assert not (tmp_path / "trace").exists()
