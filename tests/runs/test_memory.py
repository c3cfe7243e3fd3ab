"""What is done about memory before a training begins, and what `check` says of it."""

from pathlib import Path

import pytest
import torch

from medfuse import PipelineError
from medfuse.model.held import Held
from medfuse.runs import memory
from medfuse.runs.memory import fitted, memory_line, step_bytes
from medfuse.train.settings import TrainSettings
from medfuse.verbs.check import check_pipeline

GIB = 2**30
HELD = Held(("first",), all=8 * GIB, recomputed=4 * GIB, gradients=1 * GIB, weights=GIB // 8)


def settings(**more) -> TrainSettings:
    return TrainSettings(steps=1, **more)


def chosen(free, monkeypatch, *, alike=True, batch=4, half=False, **more):
    """Checkpointing, parts and what is said, where so many GiB are free."""
    monkeypatch.setattr(memory, "free_memory", lambda: int(free * GIB / memory.SHARE) + 1)
    said = []
    made = fitted(
        settings(**more),
        HELD,
        batch=batch,
        half=half,
        device=torch.device("cpu"),
        alike=alike,
        say=said.append,
    )
    return made.checkpointing, made.accumulate, said


def test_nothing_is_done_while_a_step_fits(monkeypatch):
    assert chosen(9.5, monkeypatch) == ("auto", "auto", [])


def test_maps_are_computed_again_before_a_batch_is_cut(monkeypatch):
    *ways, (said,) = chosen(6, monkeypatch)
    assert ways == [True, "auto"]
    assert said == (
        "a step would take about 9.4 GiB, and 6.0 GiB are free: going on with train.checkpointing: true, "
        "which takes about 5.4 GiB"
    )


@pytest.mark.parametrize(("free", "parts"), [(3.0, 2), (1.7, 4), (0.1, 4)])
def test_a_batch_is_cut_until_it_fits_or_there_is_one_patch(monkeypatch, free, parts):
    checkpointing, accumulate, (said,) = chosen(free, monkeypatch)
    assert (checkpointing, accumulate) == (True, parts)
    assert f"train.checkpointing: true and train.accumulate: {parts}, which takes" in said


@pytest.mark.parametrize("more", [{"alike": False}, {"deterministic": True}, {"batch": 1}])
def test_a_batch_is_not_cut_where_that_would_change_what_is_learned(monkeypatch, more):
    assert chosen(1, monkeypatch, **more)[:2] == (True, "auto")


@pytest.mark.parametrize("said", [{"checkpointing": False}, {"accumulate": 1}])
def test_what_the_pipeline_says_stays(monkeypatch, said):
    checkpointing, accumulate, _ = chosen(1, monkeypatch, **said)
    assert said.get("checkpointing", True) == checkpointing
    assert said.get("accumulate", 4) == accumulate


def test_half_precision_needs_less_done(monkeypatch):
    assert chosen(6, monkeypatch, half=True) == ("auto", "auto", [])


def test_the_line_of_check_is_of_the_settings_and_of_what_would_take_less():
    assert memory_line(HELD, settings(), 4) == (
        "a training step of 4 patches takes about 9.4 GiB in fp32, 4.9 GiB in bf16; with "
        "train.checkpointing: true 5.4 GiB in fp32, 2.9 GiB in bf16; with train.accumulate: 4 besides "
        "1.6 GiB in fp32, 1.0 GiB in bf16"
    )
    done = settings(checkpointing=True, accumulate=4, precision="fp32")
    assert memory_line(HELD, done, 4) == "a training step of 4 patches takes about 1.6 GiB"
    assert step_bytes(HELD, done, half=False) < step_bytes(HELD, settings(), half=False)


def test_check_says_it_and_refuses_more_parts_than_patches():
    file = Path(__file__).parents[2] / "pipelines" / "liver.yaml"
    said = check_pipeline(file, ["train.checkpointing=true", "train.accumulate=2"])
    assert "a training step of 2 patches takes about" in str(said)
    assert said.values["step_bytes"] < check_pipeline(file).values["step_bytes"]
    with pytest.raises(
        PipelineError, match=r"train\.accumulate: a batch of 2 patches has no 3 parts; give 2"
    ):
        check_pipeline(file, ["train.accumulate=3"])
