"""What a curve tells of more training is what more training brings, and no more than it can know."""

from collections.abc import Callable

import numpy as np
import pytest

from medfuse.train.optimizer import rate_factor
from medfuse.train.outlook import TIMES, further, outlook, points
from medfuse.train.settings import TrainSettings

Law = Callable[[float, float], float]
"""(learning done, 1 for this budget; the rate, 1 at its highest) → a value."""


def settings(decay: str = "cosine", **more) -> TrainSettings:
    return TrainSettings(minutes=10, decay=decay, **more)


def rows(
    dice: Law | None,
    loss: Law,
    *,
    decay: str = "cosine",
    noise: float = 0.003,
    seed: int = 0,
    steps: int = 2000,
    epoch: int = 100,
    times: float = 1.0,
) -> list[dict[str, float]]:
    """A log of a training of `times` the budget, noise and all."""
    random = np.random.default_rng(seed)
    rates = [rate_factor(step / steps, settings(decay, warmup=0.05)) for step in range(steps)]
    learned = times * np.cumsum(rates) / sum(rates)
    made = []
    for step in range(10, steps + 1, 10):
        x, rate = max(learned[step - 1], 0.01), rates[step - 1]
        row = {"step": step, "learning_rate": 0.01 * rate, "loss": loss(x, rate) + random.normal(0, 0.03)}
        if dice and step % epoch == 0:
            row["dice"] = dice(x, rate) + random.normal(0, noise * (0.3 + rate))
        made.append(row)
    return made


def power(end: float, rise: float, exponent: float = 0.5, lift: float = 0.02) -> Law:
    """A Dice that is `end` at the end, and would be `end` + `rise` with TIMES the budget."""
    return lambda x, rate: end + rise * (1 - x**-exponent) / (1 - TIMES**-exponent) - lift * rate


def falling(x: float, rate: float) -> float:
    return 0.2 + 0.1 * x**-0.5 + 0.05 * rate


def said(dice: Law | None, loss: Law = falling, decay: str = "cosine", **more) -> str:
    return outlook(rows(dice, loss, decay=decay, **more), settings(decay))


@pytest.mark.parametrize("decay", ["cosine", "poly", "none"])
@pytest.mark.parametrize("rise", [0.0, 0.01, 0.04])
@pytest.mark.parametrize("exponent", [0.3, 1.0])
def test_the_truth_lies_in_the_interval_as_often_as_is_said(decay, rise, exponent):
    inside = 0
    for seed in range(20):
        found = further(points(rows(power(0.8, rise, exponent), falling, decay=decay, seed=seed), "dice"))
        inside += found is not None and found.low - 0.001 <= rise <= found.high + 0.001
    assert inside >= 15


@pytest.mark.parametrize("decay", ["cosine", "poly", "none"])
def test_what_rises_still_is_worth_more_time(decay):
    told = [said(power(0.7, 0.05), decay=decay, noise=0.001, seed=seed) for seed in range(10)]
    worth = [line for line in told if "worth 3 times as many minutes: about +0.0" in line]
    assert len(worth) >= 7
    assert not [line for line in told if "change little" in line]


@pytest.mark.parametrize("decay", ["cosine", "poly", "none"])
def test_what_has_levelled_off_would_change_little(decay):
    told = [said(power(0.85, 0.001, 2.0), decay=decay, noise=0.002, seed=seed) for seed in range(10)]
    assert sum("would change little" in line for line in told) >= 7
    assert not [line for line in told if "worth" in line]


@pytest.mark.parametrize("decay", ["cosine", "poly"])
def test_a_rise_that_the_falling_rate_alone_brings_is_worth_nothing(decay):
    told = [said(lambda x, rate: 0.8 - 0.06 * rate, decay=decay, seed=seed) for seed in range(20)]
    assert sum("worth" in line for line in told) <= 1


@pytest.mark.parametrize("decay", ["cosine", "poly", "none"])
def test_an_exponential_approach_is_not_taken_for_a_rise_without_end(decay):
    truth = 0.3 * (np.exp(-1 / 0.3) - np.exp(-TIMES / 0.3))

    def law(x: float, rate: float) -> float:
        return 0.8 - 0.3 * float(np.exp(-x / 0.3))

    found = [further(points(rows(law, falling, decay=decay, seed=seed), "dice")) for seed in range(20)]
    assert sum(one is not None and one.low - 0.002 <= truth <= one.high for one in found) >= 16
    told = [said(law, decay=decay, seed=seed) for seed in range(10)]
    assert sum("about +0.0" in line and "about +0.01" not in line for line in told) <= 1


def test_a_dice_that_falls_would_not_be_helped():
    line = said(lambda x, rate: 0.8 - 0.1 * x, noise=0.002)
    assert "worth" not in line
    assert "would not help" in line or "cannot be told" in line


@pytest.mark.parametrize("seed", range(5))
def test_of_noise_nothing_is_told(seed):
    assert "cannot be told by this curve" in said(lambda x, rate: 0.6, noise=0.1, seed=seed)


def test_no_dice_rises_above_one():
    line = said(power(0.99, 0.05), noise=0.0005)
    assert "about +0.0" not in line or "to +0.01" in line


def test_the_fall_of_the_loss_in_the_last_fifth_is_that_of_the_loss():
    flat = [said(None, lambda x, rate: 0.3, seed=seed) for seed in range(10)]
    assert sum("the loss fell no more than its noise in the last fifth" in line for line in flat) >= 8
    assert "the loss still fell by 0.1" in said(None, lambda x, rate: 1 - 0.7 * x, decay="none")
    assert "the loss rose by 0.1" in said(None, lambda x, rate: 0.7 * x, decay="none")


def test_without_looks_at_held_out_cases_nothing_is_told_of_dice():
    line = said(None)
    assert "what that is in Dice cannot be told, as no held-out case was looked at" in line
    assert "of the loss (" in line


def test_the_loss_of_the_main_head_counts_as_weights_of_others_change():
    made = [{**row, "loss/main": 0.3, "loss": 3 - row["step"] / 1000} for row in rows(None, falling)]
    assert "no more than its noise" in outlook(made, settings())


def test_few_looks_tell_nothing_and_a_short_training_less():
    line = said(power(0.7, 0.05), epoch=400)
    assert "what that is in Dice cannot be told, as held-out cases were looked at only 5 times" in line
    assert "of the loss (" in line
    assert "too short a training" in said(power(0.7, 0.05), steps=100, epoch=10)
    assert "too short a training" in outlook([{"step": 1, "loss": 1.0, "learning_rate": 0.01}], settings())


def test_the_budget_is_named_in_its_own_unit():
    made = rows(power(0.7, 0.05), falling)
    assert "3 times as many steps" in outlook(made, TrainSettings(steps=2000))
    assert "3 times as many epochs" in outlook(made, TrainSettings(epochs=20))


def test_neither_the_size_of_the_rate_nor_the_length_of_a_step_matters():
    made = rows(power(0.7, 0.05), falling)
    other = [{**row, "learning_rate": 7 * row["learning_rate"], "step": 3 * row["step"]} for row in made]
    one, two = (further(points(found, "dice")) for found in (made, other))
    assert one == pytest.approx(two) or vars(one) == pytest.approx(vars(two))


@pytest.mark.parametrize("rate", [0.0, 0.01])
@pytest.mark.parametrize("step", [0, 7])
def test_a_log_that_is_no_curve_is_told_as_too_short(rate, step):
    made = [{"step": step, "loss": 1.0, "dice": 0.5, "learning_rate": rate} for _ in range(50)]
    assert "too short a training" in outlook(made, settings())
