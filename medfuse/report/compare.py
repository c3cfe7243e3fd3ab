"""Whether one model is better than another: paired differences, their uncertainty, and what follows."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medfuse.report.candidates import MEAN, Candidate, tables
from medfuse.report.paired import (
    FEWEST_FOR_A_CLAIM,
    LEVEL,
    MARGIN,
    Needed,
    judge,
    needed,
    signed_rank,
    smallest_p,
)
from medfuse.report.ranks import Rank, ranks

Verdict = Literal["better", "worse", "equivalent", "undecided"]

_ROUNDING = 1e-9  # of means over trainings


@dataclass(frozen=True)
class Difference:
    """A candidate's Dice minus the baseline's on the `pairs` cases of `patients` that both have.

    `low` and `high` bound the mean difference (95 %, over patients, and over the seeds of each model where
    there are several). `p` is the larger of two: of the mean difference by that same interval (`p_mean`), and
    of Wilcoxon's signed-rank test over patients, of whom `differing` differ (`p_ranks`). `p_equivalent` is of
    the mean being as far from 0 as `margin`. `…_corrected` are Holm's for all tests of the comparison, and
    `p_smallest` what p could have been at best with so many differing patients and tests.
    """

    candidate: str
    label: str
    pairs: int
    differing: int
    difference: float
    low: float
    high: float
    p: float
    p_corrected: float
    p_smallest: float
    patients: int
    p_mean: float
    p_ranks: float
    p_equivalent: float
    p_equivalent_corrected: float
    margin: float
    needed: Needed | None

    @property
    def verdict(self) -> Verdict:
        """What is within the margin is equivalent, on whichever side of 0 it is."""
        if self.patients >= FEWEST_FOR_A_CLAIM and self.p_equivalent_corrected < LEVEL:
            return "equivalent"
        if self.p_corrected < LEVEL and (self.low > 0 or self.high < 0):
            return "better" if self.difference > 0 else "worse"
        return "undecided"

    @property
    def is_hopeless(self) -> bool:
        """Whether no difference, however large, could have been significant."""
        return self.p_smallest >= LEVEL

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


@dataclass(frozen=True)
class Comparison:
    """Candidates, the first of which is the baseline, and every other's differences to it.

    `ranks`, best first, are by the mean foreground Dice of the cases that all candidates have.
    """

    candidates: tuple[Candidate, ...]
    labels: tuple[str, ...]
    differences: tuple[Difference, ...]
    margin: float = MARGIN
    ranks: tuple[Rank, ...] = ()

    def of(self, candidate: str, label: str) -> Difference:
        return next(d for d in self.differences if (d.candidate, d.label) == (candidate, label))

    def rows(self) -> list[dict[str, Any]]:
        """One for each model and label: its mean, that of the first one beside it, and what may be said."""
        return [
            {**self._mean(c, label), **self._against(c, label)}
            for c in self.candidates
            for label in self.labels
        ]

    def _mean(self, candidate: Candidate, label: str) -> dict[str, Any]:
        found = candidate.interval(label)
        low, high = (None, None) if found is None else (found.low, found.high)
        mean = {
            "model": candidate.name,
            "label": label,
            "dice": candidate.mean(label),
            "low": low,
            "high": high,
        }
        cost = ("trainings", "parameters", "seconds_per_case", "steps", "seconds")
        return {**mean, "cases": candidate.n(label), **{key: getattr(candidate, key) for key in cost}}

    def _against(self, candidate: Candidate, label: str) -> dict[str, Any]:
        keys = ("difference", "difference_low", "difference_high", "p_corrected", "verdict")
        for d in self.differences:
            if (d.candidate, d.label) == (candidate.name, label):
                return dict(zip(keys, (d.difference, d.low, d.high, d.p_corrected, d.verdict)))
        return dict.fromkeys(keys)

    def to_json(self) -> dict[str, Any]:
        from medfuse.report.budgets import unequal

        return {
            "baseline": self.candidates[0].name,
            "labels": list(self.labels),
            "candidates": [c.to_json(self.labels) for c in self.candidates],
            "differences": [d.to_json() for d in self.differences],
            "margin": self.margin,
            "ranks": [rank.to_json() for rank in self.ranks],
            "unequal": unequal(self.candidates),
        }


def compare(candidates: Sequence[Candidate], margin: float = MARGIN) -> Comparison:
    """Every candidate against the first, on the mean foreground and per label.

    `margin`: a difference in Dice that does not matter. Raises ValueError where a pair of candidates has no
    case in common, or one lacks a label of the first.
    """
    baseline, labels = candidates[0], (MEAN, *candidates[0].dice)
    for c in candidates[1:]:
        if lacking := [label for label in baseline.dice if label not in c.dice]:
            raise ValueError(f"{c.name} has no label {', '.join(lacking)}, as {baseline.name} has")
    rows = [(c, label, by_case(baseline, c, label)) for c in candidates[1:] for label in labels]
    for c, label, values in rows:
        if label == MEAN and not values:
            raise ValueError(f"{baseline.name} and {c.name} have no judged case in common")
    rows = [row for row in rows if row[2]]
    made = [_tested(baseline, *row, margin) for row in rows]
    p, equivalent = (holm([one[key] for one in made]) for key in ("p", "p_equivalent"))
    smallest = holm([_smallest(one["differing"] or one["patients"]) for one in made])
    differences = tuple(
        Difference(**one, p_corrected=a, p_equivalent_corrected=b, p_smallest=c)
        for one, a, b, c in zip(made, p, equivalent, smallest)
    )
    common = tables(candidates, MEAN)
    order = ranks([c.name for c in candidates], common) if common else []
    return Comparison(tuple(candidates), labels, differences, margin, tuple(order))


def _tested(
    baseline: Candidate, other: Candidate, label: str, values: Mapping[str, float], margin: float
) -> dict[str, Any]:
    """All of a Difference that does not hang on the other tests."""
    by_patient = of_patients(values, baseline)
    base, table = tables([baseline, other], label)
    patients, seeds = len(by_patient), max(base.shape[2], table.shape[2])
    found: dict[str, Any] = {
        "candidate": other.name,
        "label": label,
        "pairs": len(values),
        "patients": patients,
        "differing": int(np.count_nonzero(by_patient)),
        "difference": float(np.mean([*values.values()])),
        "margin": margin,
        "p_ranks": float(signed_rank(by_patient[None])[0]),
    }
    if patients < 2:
        alone = {"low": -1.0, "high": 1.0, "p": 1.0, "p_mean": 1.0, "p_equivalent": 1.0, "needed": None}
        return found | alone
    cases = np.array([*Counter(map(baseline.patient, values)).values()], np.float64)
    of = judge(np.round(table, 9), np.round(base, 9), margin, cases)
    effect = max(margin, abs(found["difference"]))
    more = needed(float(of.of_patients[0]), float(of.of_seeds[0]), patients, seeds, effect)
    return found | {
        "low": max(-1.0, float(of.low[0])),
        "high": min(1.0, float(of.high[0])),
        "p": max(found["p_ranks"], float(of.p[0])),
        "p_mean": float(of.p[0]),
        "p_equivalent": float(of.p_equivalent[0]),
        "needed": more,
    }


def by_case(baseline: Candidate, other: Candidate, label: str) -> dict[str, float]:
    """What each case that both have adds to the difference, which is the mean of this.

    Where not every case has every label, a case's part in MEAN, the mean of the labels' means, is
    Σ_labels d · cases / (cases with that label) / labels. What rounding alone tells apart is 0.
    """
    of = {name: _paired(baseline.dice[name], other.dice[name]) for name in baseline.labels(label)}
    of = {name: found for name, found in of.items() if found}
    cases = list(dict.fromkeys(case for found in of.values() for case in found))
    parts = np.zeros(len(cases))
    for found in of.values():
        parts += [found.get(case, 0.0) * len(cases) / len(found) / len(of) for case in cases]
    return dict(zip(cases, np.where(abs(parts) > _ROUNDING, parts, 0.0).tolist()))


def of_patients(values: Mapping[str, float], of: Candidate) -> npt.NDArray[np.float64]:
    """What each patient adds, the sum of its cases'."""
    sums: dict[str, float] = {}
    for case, value in values.items():
        sums[of.patient(case)] = sums.get(of.patient(case), 0.0) + value
    return np.array([*sums.values()])


def _paired(ours: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Case → theirs minus ours, where both have one."""
    both = [case for case in ours if ours[case] and theirs.get(case)]
    return {case: float(np.mean(theirs[case]) - np.mean(ours[case])) for case in both}


def _smallest(differing: int) -> float:
    return float(smallest_p(np.array(differing)))


def enough_cases(tests: int) -> int:
    """With how many differing patients in each of `tests` a difference can be significant (6 for one)."""
    return next(n for n in itertools.count(1) if tests * _smallest(n) < LEVEL)


def holm(p: Sequence[float]) -> list[float]:
    """Corrected for the number of tests (Holm 1979): the chance of any false alarm stays at the level."""
    corrected, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = largest
    return corrected
