"""What a training step costs on this machine: a few real ones, on random patches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import nn

from medfuse.core.layout import channels_last, lay_out
from medfuse.core.memory import memory_growth
from medfuse.train.objective import Objective
from medfuse.train.optimizer import make_optimizer
from medfuse.train.saving import Saving
from medfuse.train.settings import TrainSettings

FEWEST, MOST, LONG_ENOUGH = 2, 8, 1.0
"""Steps that are timed, and seconds after which no more are: short ones may all fall into one pause."""

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class StepCost:
    """Seconds of a step, and bytes at its peak: weights, gradients, optimiser and maps together.

    `seconds` are those of the fastest of a few, by which networks are compared; `pace`, their median, is what
    training will find on a machine that is as busy as it was.
    """

    seconds: float
    bytes: int
    pace: float = 0.0

    def __post_init__(self) -> None:
        if not self.pace:
            object.__setattr__(self, "pace", self.seconds)


def measure_step(
    build: Callable[[], Model],
    objective: Objective,
    settings: TrainSettings,
    *,
    segments: Callable[[Model], Sequence[str]] = lambda model: (),
    shape: Sequence[int],
    classes: int,
    device: torch.device,
) -> StepCost:
    """A few steps after a first one, on random batches of `shape` (batch, channels, *patch).

    `settings.precision` is fp32 or bf16 here, as a choice between them takes memory and time of its own.
    `segments`: paths of modules whose maps are computed again where `settings.checkpointing` says so.
    """
    with memory_growth(device) as growth:
        taken = _steps(build, objective, settings, segments, shape, classes, device)
        return StepCost(min(taken), growth(), median(taken))


def _steps(
    build: Callable[[], Model],
    objective: Objective,
    settings: TrainSettings,
    segments: Callable[[Model], Sequence[str]],
    shape: Sequence[int],
    classes: int,
    device: torch.device,
) -> list[float]:
    """Seconds of each step after the first, all of whose memory is given up again."""
    fabric = Fabric(
        accelerator=device.type,
        devices=1,
        precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
        plugins=LightningEnvironment(),
    )
    model = build()
    paths = segments(model) if settings.checkpointing is True else ()
    model.to(device)
    layout = channels_last(len(shape))
    lay_out(model, len(shape), layout)
    optimizer = make_optimizer(model.parameters(), settings)
    network, optimizer = fabric.setup(model, optimizer)
    image = torch.randn(*shape, device=device).contiguous(memory_format=layout)
    label = torch.randint(classes, (shape[0], 1, *shape[2:]), device=device)
    weights = objective.weights(0, 1000)
    taken: list[float] = []
    with Saving(model, settings, paths) as saving:
        while len(taken) < 1 + FEWEST or (len(taken) < 1 + MOST and sum(taken[1:]) < LONG_ENOUGH):
            start = time.perf_counter()
            total, _ = objective(saving.around(network), image, label, weights)
            fabric.backward(total)
            if settings.clip:
                nn.utils.clip_grad_norm_(model.parameters(), settings.clip, foreach=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - start)
    return taken[1:]  # the first one warms up
