"""Warnings of a training that learns nothing."""

import pytest
import torch

from medfuse.train.budget import FEWEST_STEPS, too_few
from medfuse.train.doubts import (
    CONSTANT_STEPS,
    EMPTY_BATCHES,
    FLAT_STEPS,
    Doubts,
    wait_advice,
)

EMPTY, FULL = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)


def warnings(label, losses, *, fresh=True, **known) -> list[str]:
    said: list[str] = []
    doubts = Doubts(said.append, fresh=fresh, **known)
    for loss in losses:
        doubts.look(label, loss)
    doubts.end()
    return said


def rising(steps: int) -> list[float]:
    """About 0.693, and not learning."""
    return [0.693 * (1 + 1e-4 * (step % 7)) for step in range(steps)]


def falling(steps: int) -> list[float]:
    return [1 / (1 + step) for step in range(steps)]


def test_patches_without_foreground_are_told_once():
    (said,) = warnings(EMPTY, falling(3 * EMPTY_BATCHES))
    assert f"no foreground in the last {EMPTY_BATCHES} batches; raise sample.foreground" in said


def test_one_patch_with_foreground_is_enough():
    said: list[str] = []
    doubts = Doubts(said.append, fresh=True)
    for step in range(2 * EMPTY_BATCHES - 1):
        doubts.look(FULL if step == EMPTY_BATCHES - 1 else EMPTY, 1 / (1 + step))
    assert said == []


def test_a_flat_loss_is_told_with_its_numbers():
    (said,) = warnings(FULL, rising(2 * FLAT_STEPS))
    assert said.startswith(
        f"warning: the loss is flat: 0.693 at the beginning, 0.693 after {FLAT_STEPS} steps"
    )


@pytest.mark.parametrize(("losses", "fresh"), [(falling(FLAT_STEPS), True), (rising(FLAT_STEPS), False)])
def test_a_loss_that_falls_or_has_fallen_is_not_told(losses, fresh):
    assert warnings(FULL, losses, fresh=fresh) == []


@pytest.mark.parametrize("fresh", [True, False])
def test_a_loss_that_never_changes_is_told_early_and_once(fresh):
    (said,) = warnings(FULL, [0.693] * 2 * FLAT_STEPS, fresh=fresh)
    assert f"the loss has been 0.693 for {CONSTANT_STEPS} steps, whatever the patch" in said
    assert len(warnings(FULL, [0.693] * CONSTANT_STEPS)) == 1
    assert warnings(FULL, [0.693] * (CONSTANT_STEPS - 1)) == []


def test_a_short_training_is_judged_at_its_end():
    (said,) = warnings(FULL, rising(60))
    assert "after 60 steps" in said
    (said,) = warnings(EMPTY, falling(5))
    assert "no foreground in the last 5 batches" in said


def test_labels_in_no_patch_are_named():
    labels = ("background", "liver", "tumour", "cyst")
    (said,) = warnings(FULL, falling(EMPTY_BATCHES), labels=labels)
    assert f"no patch of the first {EMPTY_BATCHES} batches holds tumour, cyst" in said
    every = torch.arange(4.0).view(1, 1, 2, 2)
    assert warnings(every, falling(EMPTY_BATCHES), labels=labels) == []


def test_waiting_for_data_has_a_remedy_from_five_percent():
    assert wait_advice(0.01) == "waited for data 1.0 % of the time"
    assert "raise sample.workers" in wait_advice(0.06)


@pytest.mark.parametrize(("step", "done", "warned"), [(5, 0.28, True), (5, 0.001, False), (2, 1.0, True)])
def test_a_budget_in_minutes_that_holds_too_few_steps_is_said_once_they_are_timed(step, done, warned):
    said = []
    doubts = Doubts(said.append, fresh=True)
    for now in range(1, step + 1):
        doubts.pace(now, done * now / step)
    assert len(said) == warned
    assert all(f"warning: {round(step / done)} training steps are too few" in line for line in said)


@pytest.mark.parametrize("steps", [1, 18, 199])
def test_few_steps_are_too_few_and_what_helps_is_said(steps):
    assert "train.minutes" in too_few(steps)
    assert too_few(FEWEST_STEPS) == ""
