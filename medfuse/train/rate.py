"""A learning rate, from a short training whose rate grows at every step (Smith 2017)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from medfuse.core.errors import MedfuseError
from medfuse.core.layout import channels_last
from medfuse.train.objective import Objective
from medfuse.train.optimizer import make_optimizer
from medfuse.train.parts import Parts, learned_group
from medfuse.train.settings import TrainSettings
from medfuse.train.step import Batches, follow

LOWEST, HIGHEST = 1e-5, 1.0
_DIVERGED = 4.0  # times the lowest loss
_SMOOTH = 0.9  # what the running mean keeps at each step


@dataclass(frozen=True)
class RateSweep:
    """Rates that were tried, in order, and the running mean of the loss at each.

    `best` is where the loss falls fastest; `diverges` is the rate at which the sweep had to stop, if any.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    best: float
    diverges: float | None


def sweep_rates(
    model: nn.Module,
    *,
    fabric: Fabric,
    settings: TrainSettings,
    objective: Objective,
    batches: Batches,
    steps: int = 60,
    depths: Mapping[str, int] | None = None,
) -> RateSweep:
    """Train `model`, which is spent afterwards, with a rate that grows from LOWEST to HIGHEST."""
    learned, by_part = objective.learned().to(fabric.device), Parts(model, settings.parts, depths)
    optimizer = make_optimizer([*by_part.groups(), learned_group(learned)], settings)
    by_part.enter(0)
    network, optimizer = fabric.setup(model, optimizer)
    rates: list[float] = []
    losses: list[float] = []
    mean, diverges = 0.0, None
    with closing(batches(0)) as stream:
        for step in range(steps):
            rate = LOWEST * (HIGHEST / LOWEST) ** (step / (steps - 1))
            loss = _step(network, optimizer, fabric, objective, settings, next(stream), rate)
            mean = _SMOOTH * mean + (1 - _SMOOTH) * loss
            smooth = mean / (1 - _SMOOTH ** (step + 1))
            if not math.isfinite(loss) or (losses and smooth > _DIVERGED * min(losses)):
                diverges = rate
                break
            rates.append(rate)
            losses.append(smooth)
    if len(losses) < 2:
        raise MedfuseError(
            f"the loss is {loss:g} at the lowest learning rate already, {LOWEST:g}; set train.precision: "
            "fp32, and look at the images"
        )
    return RateSweep(tuple(rates), tuple(losses), steepest(rates, losses), diverges)


def steepest(rates: list[float], losses: list[float]) -> float:
    """The rate at which the loss falls most from one rate to the next, where rates grow by a factor."""
    falls = [after - before for before, after in pairwise(losses)]
    return rates[falls.index(min(falls)) + 1]


def _step(
    network: Any,
    optimizer: Any,
    fabric: Fabric,
    objective: Objective,
    settings: TrainSettings,
    batch: Mapping[str, Any],
    rate: float,
) -> float:
    image, label = fabric.to_device((batch["image"], batch["label"]))
    image = image.contiguous(memory_format=channels_last(image.ndim))
    total, _ = objective(network, image, label, objective.weights(0, 1))
    fabric.backward(total)
    follow(optimizer, settings, rate)
    return float(total.detach())
