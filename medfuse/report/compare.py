"""Whether one model is better than another: paired differences, their uncertainty, and what it cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medfuse.core.text import aligned, number
from medfuse.report.intervals import mean_interval

MEAN = "mean foreground Dice"
"""The mean of the labels' means over cases, as `summary.json` and every other place has it."""

Verdict = Literal["better", "worse", "no significant difference", "too few cases to tell"]

_LEVEL = 0.05
_ROUNDING = 1e-9  # of means over trainings


@dataclass(frozen=True)
class Candidate:
    """One model as it was trained, perhaps several times.

    `dice[label][case]` holds one value per training (seed); undefined values are left out. The cost is one
    training's mean: `seconds` of training, `gflops` of one patch, `parameters`.
    """

    name: str
    dice: Mapping[str, Mapping[str, Sequence[float]]]
    trainings: int
    parameters: int | None = None
    gflops: float | None = None
    seconds: float | None = None
    steps: float | None = None

    def mean(self, label: str) -> float | None:
        """Over cases, each the mean over its trainings; of MEAN, the mean of the labels' means."""
        if label == MEAN:
            return _mean([mean for name in self.dice if (mean := self.mean(name)) is not None])
        return _mean([math.fsum(v) / len(v) for v in self.dice[label].values() if v])

    def n(self, label: str) -> int:
        """Over how many cases a mean is taken."""
        labels = [*self.dice] if label == MEAN else [label]
        return len({case for name in labels for case, values in self.dice[name].items() if values})


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


@dataclass(frozen=True)
class Difference:
    """A candidate's Dice minus the baseline's on the `pairs` cases that both have; `differing` of them do.

    `low` and `high` bound the mean difference (95 %, bootstrap over cases). `p` is Wilcoxon's signed-rank
    test, two-sided; `p_corrected` is Holm's for all tests of the comparison, and `p_smallest` what that could
    have been at best with so many differing cases and tests. Trainings are averaged first, so the interval
    tells of other cases, not of other seeds.
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

    @property
    def verdict(self) -> Verdict:
        if self.p_smallest >= _LEVEL:
            return "too few cases to tell"
        if not (self.p_corrected < _LEVEL and (self.low > 0 or self.high < 0)):
            return "no significant difference"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """Candidates, the first of which is the baseline, and every other's differences to it."""

    candidates: tuple[Candidate, ...]
    labels: tuple[str, ...]
    differences: tuple[Difference, ...]

    def of(self, candidate: str, label: str) -> Difference:
        return next(d for d in self.differences if (d.candidate, d.label) == (candidate, label))

    def to_json(self) -> dict[str, Any]:
        return {
            "baseline": self.candidates[0].name,
            "labels": list(self.labels),
            "candidates": [
                {
                    **asdict(c),
                    "mean": {label: c.mean(label) for label in self.labels},
                    "n": {label: c.n(label) for label in self.labels},
                }
                for c in self.candidates
            ],
            "differences": [{**asdict(d), "verdict": d.verdict} for d in self.differences],
        }


def compare(candidates: Sequence[Candidate]) -> Comparison:
    """Every candidate against the first, on the mean foreground and per label.

    Raises ValueError where a pair of candidates has no case in common.
    """
    baseline, labels = candidates[0], (MEAN, *candidates[0].dice)
    rows = [(c, label, differences_of(baseline, c, label)) for c in candidates[1:] for label in labels]
    for c, label, values in rows:
        if label == MEAN and not len(values):
            raise ValueError(f"{baseline.name} and {c.name} have no judged case in common")
    rows = [row for row in rows if len(row[2])]
    p = [signed_rank(values) for *_, values in rows]
    smallest = holm([smallest_p(_differing(values) or len(values)) for *_, values in rows])
    made = (
        Difference(c.name, label, len(v), _differing(v), float(v.mean()), *_limits(v), *tests)
        for (c, label, v), *tests in zip(rows, p, holm(p), smallest)
    )
    return Comparison(tuple(candidates), labels, tuple(made))


def _limits(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Of the mean difference; as far as Dice goes where one case alone tells of it."""
    of = mean_interval(values, bounds=None)
    assert of is not None, "a row has a difference"
    low, high = of.ends()
    return max(low, -1.0), min(high, 1.0)


def differences_of(baseline: Candidate, other: Candidate, label: str) -> npt.NDArray[np.float64]:
    """The values of `by_case`."""
    return np.array([*by_case(baseline, other, label).values()])


def by_case(baseline: Candidate, other: Candidate, label: str) -> dict[str, float]:
    """What each case that both have adds to the difference, which is the mean of this.

    Where not every case has every label, a case's part in MEAN, the mean of the labels' means, is
    Σ_labels d · cases / (cases with that label) / labels. What rounding alone tells apart is 0.
    """
    names = [*baseline.dice] if label == MEAN else [label]
    of = {name: _paired(baseline.dice[name], other.dice[name]) for name in names}
    of = {name: found for name, found in of.items() if found}
    cases = list(dict.fromkeys(case for found in of.values() for case in found))
    parts = np.zeros(len(cases))
    for found in of.values():
        parts += [found.get(case, 0.0) * len(cases) / len(found) / len(of) for case in cases]
    return dict(zip(cases, np.where(abs(parts) > _ROUNDING, parts, 0.0).tolist()))


def _paired(ours: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Case → theirs minus ours, where both have one."""
    both = [case for case in ours if ours[case] and theirs.get(case)]
    return {case: float(np.mean(theirs[case]) - np.mean(ours[case])) for case in both}


def _differing(values: npt.NDArray[np.float64]) -> int:
    return int(np.count_nonzero(values))


def signed_rank(values: npt.NDArray[np.float64]) -> float:
    """Wilcoxon's two-sided p (1945), without pairs that do not differ; 1 where none does."""
    from scipy.stats import wilcoxon

    values = values[values != 0]
    if not len(values):
        return 1.0
    return max(float(wilcoxon(values).pvalue), smallest_p(len(values)))


def smallest_p(differing: int) -> float:
    """The p of so many pairs that all differ to one side: 2 of 2^n orders of signs are as far from even."""
    return min(1.0, 2.0 ** (1 - differing))


def enough_cases(tests: int) -> int:
    """With how many differing cases in each of `tests` a difference can be significant (6 for one test)."""
    return next(n for n in itertools.count(1) if tests * smallest_p(n) < _LEVEL)


def holm(p: Sequence[float]) -> list[float]:
    """Corrected for the number of tests (Holm 1979): the chance of any false alarm stays at the level."""
    corrected, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = largest
    return corrected


# ------------------------------------------------------------------------------------------- to read


def table(comparison: Comparison) -> str:
    """Means and costs, then differences, as aligned text, and what could not have been found."""
    tables = [aligned(rows) for rows in (means_rows(comparison), verdict_rows(comparison)) if len(rows) > 1]
    return "\n\n".join([*tables, *too_few(comparison)])


def means_rows(comparison: Comparison) -> list[list[str]]:
    dice = [head for label in comparison.labels for head in (label, "cases")]
    rows = [["model", *dice, "trainings", "parameters", "GFLOP/patch", "steps", "minutes"]]
    for c in comparison.candidates:
        dice = [cell for name in comparison.labels for cell in (number(c.mean(name), 4), str(c.n(name)))]
        parameters = "–" if c.parameters is None else f"{c.parameters:,}"
        minutes = None if c.seconds is None else c.seconds / 60
        cost = [parameters, number(c.gflops, 2), number(c.steps, 0), number(minutes, 1)]
        rows.append([c.name, *dice, str(c.trainings), *cost])
    return rows


def verdict_rows(comparison: Comparison) -> list[list[str]]:
    baseline = comparison.candidates[0].name
    rows = [[f"against {baseline}", "label", "difference", "95 % interval", "cases", "p (Holm)", "verdict"]]
    for d in comparison.differences:
        bounds = f"{d.low:+.4f} … {d.high:+.4f}"
        cases = str(d.pairs) if d.differing == d.pairs else f"{d.pairs} ({d.differing} differ)"
        rows.append(
            [d.candidate, d.label, f"{d.difference:+.4f}", bounds, cases, f"{d.p_corrected:.3g}", d.verdict]
        )
    return rows


def too_few(comparison: Comparison) -> list[str]:
    """One line, where there are differences that could not be significant, whatever they were."""
    rows = comparison.differences
    few = [d for d in rows if d.verdict == "too few cases to tell"]
    if not few:
        return []
    which = "no difference" if len(few) == len(rows) else f"{len(few)} of the {len(rows)} differences"
    could = "could" if len(few) == len(rows) else "could not"
    many = sorted({d.differing or d.pairs for d in few})
    cases = f"{many[0]} to {many[-1]}" if len(many) > 1 else str(many[0])
    tests = f"{len(rows)} tests" if len(rows) > 1 else "one test"
    return [
        f"too few cases to tell: {which} {could} be significant, however large, with {cases} cases that "
        f"differ and {tests}; at least {enough_cases(len(rows))} have to differ, and more seeds do not help: "
        "judge on more cases, for instance on all folds"
    ]


READING = (
    "A label's column is its mean Dice over so many cases; mean foreground Dice is the mean of these means.",
    "Dice per case is averaged over trainings first, then compared case by case with the first model's.",
    "Interval: 95 % of the mean difference over resampled cases; it tells of other cases, not seeds.",
    "Verdict: only where Wilcoxon's signed-rank test, corrected for all tests here (Holm), has p < 0.05 "
    "and the interval leaves out 0. Where no p could be so low, the cases are too few to tell; everything "
    "else is no significant difference, whichever mean is higher.",
)
