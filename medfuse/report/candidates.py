"""A model as it was trained, perhaps several times: its Dice by case and seed, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from medfuse.report.intervals import Interval, Judged, mean_interval
from medfuse.report.resampling import Floats

MEAN = "mean foreground Dice"
"""The mean of the labels' means over cases, as `summary.json` and every other place has it."""


@dataclass(frozen=True)
class Candidate:
    """`dice[label][case]` holds one value per training (seed); undefined values are left out.

    `slots`, of the same form, says the how manieth training of the case each value is of, where any is left
    out. `patients` has those of cases that share one. The cost is one training's mean: `seconds` of
    training, `cases` that it learned from, `gflops` and `maps_mib` of one patch, `parameters`, and
    `seconds_per_case` of the held-out cases.
    """

    name: str
    dice: Mapping[str, Mapping[str, Sequence[float]]]
    trainings: int
    parameters: int | None = None
    gflops: float | None = None
    seconds: float | None = None
    steps: float | None = None
    maps_mib: float | None = None
    seconds_per_case: float | None = None
    cases: float | None = None
    patients: Mapping[str, str] = field(default_factory=dict)
    slots: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)

    def mean(self, label: str) -> float | None:
        """Over cases, each the mean over its trainings; of MEAN, the mean of the labels' means."""
        if label == MEAN:
            return _mean([mean for name in self.dice if (mean := self.mean(name)) is not None])
        return _mean([math.fsum(v) / len(v) for v in self.dice[label].values() if v])

    def n(self, label: str) -> int:
        """Over how many cases a mean is taken."""
        return len({case for name in self.labels(label) for case, v in self.dice[name].items() if v})

    def labels(self, label: str) -> list[str]:
        return [*self.dice] if label == MEAN else [label]

    def seeds(self) -> int:
        """How often a case was judged, at most: folds judge other cases, and are no seeds."""
        values = (v for cases in self.dice.values() for v in cases.values())
        found = (v for cases in self.slots.values() for slots in cases.values() for v in slots)
        return max(max(map(len, values), default=0), max((slot + 1 for slot in found), default=0), 1)

    def interval(self, label: str) -> Interval | None:
        labels = self.labels(label)
        cases = list(dict.fromkeys(case for name in labels for case, v in self.dice[name].items() if v))
        return mean_interval(self.values(labels, cases), [self.patient(case) for case in cases])

    def patient(self, case: str) -> str:
        return self.patients.get(case, case)

    def values(self, labels: Sequence[str], cases: Sequence[str]) -> Floats:
        """(cases, seeds, labels), NaN where undefined."""
        table = np.full((len(cases), self.seeds(), len(labels)), np.nan)
        for column, label in enumerate(labels):
            for row, case in enumerate(cases):
                values = self.dice[label].get(case, ())
                slots = self.slots.get(label, {}).get(case, range(len(values)))
                table[row, list(slots), column] = values
        return table

    def to_json(self, labels: Sequence[str]) -> dict[str, Any]:
        intervals = {label: found.to_json() for label in labels if (found := self.interval(label))}
        return {
            **{key: value for key, value in asdict(self).items() if key != "slots"},
            "seeds": self.seeds(),
            "mean": {label: self.mean(label) for label in labels},
            "n": {label: self.n(label) for label in labels},
            "intervals": intervals,
        }


def tables(candidates: Sequence[Candidate], label: str) -> list[Floats]:
    """(1, patients, seeds) of each: what each patient adds to the mean, over cases and labels that all have.

    Empty where they have none in common.
    """
    labels = candidates[0].labels(label)
    cases = list(dict.fromkeys(case for name in labels for case in candidates[0].dice[name]))
    arrays = [one.values(labels, cases) for one in candidates]
    both = np.logical_and.reduce([np.isfinite(array).any(axis=1) for array in arrays])  # (cases, labels)
    kept, named = both.any(axis=1), both.any(axis=0)
    if not both.any():
        return []
    patients = [candidates[0].patient(case) for case, has in zip(cases, kept) if has]
    number = {patient: n for n, patient in enumerate(dict.fromkeys(patients))}
    numbers = np.array([number[patient] for patient in patients], np.intp)
    made = []
    for array in arrays:
        shown = np.where(both[:, None, :], array, np.nan)[kept][:, :, named]
        made.append(Judged(shown[:, np.isfinite(shown).any(axis=(0, 2))], numbers).table())
    return made


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
