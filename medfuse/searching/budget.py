"""How long trials are trained, with which seeds the end is, and which cases are chosen by."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medfuse.api import Split
from medfuse.core.errors import MedfuseError, PipelineError, Problem
from medfuse.pipeline import Pipeline
from medfuse.space.settings import SearchSettings

FEWEST_SECONDS = 6.0
"""Of the shortest rung: with fewer nothing is learned that tells trials apart."""
TAUGHT = f"less than {FEWEST_SECONDS:g} seconds teach a network nothing"


@dataclass(frozen=True)
class Budget:
    """How long a trial is trained at each rung, in the words of `train`: steps, or minutes."""

    key: str
    amounts: tuple[float, ...]

    @property
    def full(self) -> float:
        return self.amounts[-1]

    def at(self, rung: int) -> dict[str, Any]:
        """What is overridden in a pipeline."""
        amount = self.amounts[rung]
        value = int(amount) if self.key == "steps" else amount
        return {**dict.fromkeys(("epochs", "steps", "minutes")), self.key: value}

    def __str__(self) -> str:
        shown = [f"{amount:,.0f}" if self.key == "steps" else f"{amount:.2g}" for amount in self.amounts]
        return f"{', '.join(shown)} {self.key}"


def plan_budget(settings: SearchSettings, pipeline: Pipeline) -> tuple[Budget, str]:
    """How long trials are trained, and a line about it where that is not as long as the file says.

    The last rung is what the trainings at the end have. Raises PipelineError where minutes are too few.
    """
    train = pipeline.train
    rungs = settings.rungs if settings.method == "tpe" else 1
    if train.minutes is None:
        full = train.steps or (train.epochs or 1) * train.steps_per_epoch
        steps = [max(1, round(full / settings.eta**n)) for n in reversed(range(rungs))]
        return Budget("steps", tuple(dict.fromkeys(map(float, steps)))), ""
    minutes, said = train.minutes, ""
    if 60 * minutes < FEWEST_SECONDS:
        what = f"{minutes:g} minutes: {TAUGHT}; give {FEWEST_SECONDS / 60:g} at least"
        raise PipelineError([Problem(("train", "minutes"), what)])
    if settings.minutes is not None:
        trainings = 2 * (settings.seeds if isinstance(settings.seeds, int) else len(settings.seeds))
        most = 0.8 * settings.retrain * settings.minutes / trainings  # the rest is for judging
        if minutes > most:
            said = (
                f"each training has {most:.2g} minutes, not {minutes:g} as in the file: of "
                f"{settings.minutes:g} minutes {settings.retrain:.0%} are for {trainings} trainings at the "
                "end"
            )
            minutes = most
        if 60 * minutes < FEWEST_SECONDS:
            needed = FEWEST_SECONDS / 60 * trainings / (0.8 * settings.retrain)
            what = f"{settings.minutes:g} minutes leave {60 * minutes:.1f} seconds for a training, and "
            raise PipelineError(
                [
                    Problem(
                        ("search", "minutes"),
                        f"{what}{TAUGHT}; give {needed:.1f} minutes at least, or fewer seeds",
                    )
                ]
            )
    amounts = [minutes / settings.eta**n for n in reversed(range(rungs))]
    amounts = [a for a in amounts if 60 * a >= FEWEST_SECONDS] or [minutes]
    return Budget("minutes", tuple(amounts)), said


def seeds_of(settings: SearchSettings, pipeline: Pipeline) -> tuple[int, ...]:
    """Seeds of the trainings at the end, none of which is that of the trials. Raises PipelineError."""
    if isinstance(settings.seeds, int):
        return tuple(pipeline.seed + n for n in range(1, settings.seeds + 1))
    if pipeline.seed in settings.seeds:
        where = ("search", "seeds", settings.seeds.index(pipeline.seed))
        raise PipelineError(
            [
                Problem(
                    where,
                    f"{pipeline.seed} is the seed that trials are trained with, whose luck the choice has "
                    "seen; give another",
                )
            ]
        )
    return settings.seeds


def inner_split(outer: Split, patient_of: Mapping[str, str], share: float, seed: int) -> Split:
    """Of the training cases those that trials learn from, and those that they are judged by.

    A patient is on one side. Raises MedfuseError where there are not two.
    """
    patients: dict[str, list[str]] = {}
    for name in outer.train:
        patients.setdefault(patient_of.get(name, name), []).append(name)
    if len(patients) < 2:
        raise MedfuseError(
            f"search: the training cases are of {len(patients)} patient{'s'[: len(patients) != 1]}, and "
            "choosing takes two at least, one of them to judge by; add some, or use more folds (split.folds)"
        )
    order = sorted(patients)
    random.Random(seed).shuffle(order)
    held = min(len(order) - 1, max(1, round(share * len(order))))
    judging, training = ([n for p in some for n in patients[p]] for some in (order[:held], order[held:]))
    return Split(tuple(sorted(training)), tuple(sorted(judging)))
