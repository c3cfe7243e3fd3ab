"""What a plan does about memory before it gives up channels, resolution or voxels."""

from dataclasses import dataclass, replace
from math import prod
from types import SimpleNamespace

import pytest
import yaml

from medfuse.core.errors import MedfuseError
from medfuse.core.reporter import Reporter
from medfuse.planning.planner import Clock, Planner
from medfuse.planning.sizing import Grid
from medfuse.planning.text import Text
from medfuse.train.cost import StepCost
from medfuse.train.settings import TrainSettings

GRID = Grid((1.0, 1.0, 1.0), (512, 512, 300))


@dataclass(frozen=True)
class Bench:
    """Costs in proportion to voxels and width; each way to save memory takes less of it, and more time."""

    dimensions: str = "3"
    dims: int = 3
    checkpointing: bool = False
    accumulates: bool = False

    def saving(self, *, accumulates):
        return replace(self, checkpointing=True, accumulates=accumulates)

    def measure(self, width, patch, batch):
        work = width * batch * prod(patch)
        share = 0.4 if self.accumulates else 0.8 if self.checkpointing else 1.0
        return StepCost(1e-8 * work * (1 + 0.3 * self.checkpointing), int(1e6 + 100 * share * work))


def planned(memory, monkeypatch, minutes=None):
    fingerprint = SimpleNamespace(cases=[None] * 100)
    planner = Planner(fingerprint, None, None, int(memory), Clock(minutes, 0.0), Reporter(quiet=True))
    monkeypatch.setattr(Planner, "_on", lambda self, bench, some, size: bench)
    monkeypatch.setattr(Planner, "_measuring", lambda self, count: 1e9)
    return planner._sized(Bench(), "as nnU-Net's", (GRID,), 1)


WHOLE = 1e6 + 100 * 32 * 2 * prod(GRID.patch(3, 112**3))  # bytes of all channels on two large patches


@pytest.mark.parametrize(
    ("memory", "ways"),
    [(1.2, (False, False)), (0.9, (True, False)), (0.5, (True, True)), (0.3, (True, True))],
)
def test_each_way_is_taken_before_a_patch_is_cut(monkeypatch, memory, ways):
    chosen = planned(memory * WHOLE, monkeypatch)
    assert (chosen.bench.checkpointing, chosen.bench.accumulates) == ways
    assert chosen.size.width == 32
    assert (prod(chosen.size.patch_size) >= prod(GRID.patch(3, 112**3))) == (memory > 0.4)
    assert chosen.size.cost.bytes <= memory * WHOLE


def test_memory_is_saved_before_channels_are_given_up_where_there_is_time(monkeypatch):
    chosen = planned(0.9 * WHOLE, monkeypatch, minutes=10**5)
    assert (chosen.size.width, chosen.bench.checkpointing) == (32, True)


def test_nothing_is_saved_where_the_time_is_what_is_short(monkeypatch):
    chosen = planned(10 * WHOLE, monkeypatch, minutes=30)
    assert chosen.size.width < 32
    assert not chosen.bench.checkpointing


def test_a_budget_that_nothing_fits_is_told_of_the_step_that_takes_least(monkeypatch):
    with pytest.raises(MedfuseError, match=r"takes .* more than"):
        planned(1e6, monkeypatch)


def test_where_no_time_is_left_to_measure_nothing_else_is_tried(monkeypatch):
    monkeypatch.setattr(Bench, "saving", lambda self, accumulates: replace(self, checkpointing=True))
    fingerprint = SimpleNamespace(cases=[None] * 100)
    planner = Planner(fingerprint, None, None, int(0.9 * WHOLE), Clock(10**5, 0.0), Reporter(quiet=True))
    monkeypatch.setattr(Planner, "_on", lambda self, bench, some, size: bench)
    monkeypatch.setattr(Planner, "_measuring", lambda self, count: 0.0)
    assert not planner._sized(Bench(), "as nnU-Net's", (GRID,), 1).bench.checkpointing


@pytest.mark.parametrize(
    ("bench", "said"),
    [
        (Bench(), {}),
        (Bench(checkpointing=True), {"checkpointing": True}),
        (Bench(checkpointing=True, accumulates=True), {"checkpointing": True, "accumulate": 2}),
    ],
)
def test_the_file_says_what_was_done_about_memory(monkeypatch, bench, said):
    chosen = planned(WHOLE, monkeypatch)
    bench = SimpleNamespace(**vars(bench), device="cpu")
    text = SimpleNamespace(
        candidate=SimpleNamespace(size=chosen.size, bench=bench),
        minutes=None,
        spent=0.0,
        _quick=lambda: False,
    )
    written = yaml.safe_load(Text._train(text))["train"]
    assert {key: written[key] for key in ("checkpointing", "accumulate") if key in written} == said
    assert TrainSettings.model_validate(written)
