"""Budget, learning rate and objective as arithmetic."""

import pytest
import torch

from medfuse.train.budget import Budget
from medfuse.train.objective import shrink
from medfuse.train.optimizer import rate_factor
from medfuse.train.settings import TrainSettings


def test_epochs_are_a_budget_of_steps():
    assert Budget.of(TrainSettings(epochs=3, steps_per_epoch=7)) == Budget(steps=21)


@pytest.mark.parametrize("budgets", [{}, {"epochs": 1, "steps": 2}])
def test_the_budget_is_given_once(budgets):
    with pytest.raises(ValueError, match="give the budget once"):
        TrainSettings(**budgets)


@pytest.mark.parametrize("decay", ["poly", "cosine"])
def test_the_learning_rate_rises_in_the_warm_up_and_falls_to_nothing(decay):
    settings = TrainSettings(steps=1, decay=decay, warmup=0.1)
    rates = [rate_factor(t / 100, settings) for t in range(101)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[10] == pytest.approx(1)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_a_time_budget_counts_its_schedule_in_thousandths():
    assert Budget(seconds=60).schedule_step(0.5) == (500, 1000)
    assert Budget(seconds=60).schedule_step(1.0) == (999, 1000)


def test_a_shrunken_target_keeps_its_classes():
    label = torch.randint(0, 3, (1, 1, 9, 7))
    small = shrink(label, (5, 4))
    assert small.shape == (1, 1, 5, 4)
    assert set(small.unique().tolist()) <= set(label.unique().tolist())
    assert small.dtype == label.dtype
