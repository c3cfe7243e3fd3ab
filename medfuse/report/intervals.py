"""Between which numbers a mean or a median would lie with other patients and other seeds, and by what method.

A patient is what is resampled: cases of one patient go together. Where a model was trained several times, its
seeds are a level of their own. docs/statistics.md has what each method covers in simulations.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.report.resampling import (
    FEW_SEEDS,
    FEWEST_PATIENTS,
    MOST_PATIENTS,
    RESAMPLES,
    STUDENTISED_BELOW,
    Floats,
    Spread,
    for_any_distribution,
    parts,
)

LEVEL = 0.95
SHARES = (0.0, 1.0)
"""What Dice and other shares lie between."""
POSITIVE = (0.0, math.inf)
"""What distances lie between."""
FEW, SOME = 10, 200
"""Patients below which an interval claims nothing, and below which it is said what it supposes."""


@dataclass(frozen=True)
class Interval:
    """A mean or a median, `value`, and its limits; None where one patient alone tells of it.

    level: how often such an interval holds the true value, as far as `caveat` does not say otherwise.
    any_low, any_high: what the mean is within whatever the distribution is, with `level` at least; None where
    the measure has no bounds. unseen: a kind of patient as common as this may be in none of so few.
    """

    value: float
    level: float
    patients: int
    cases: int
    seeds: int
    low: float | None = None
    high: float | None = None
    method: str = ""
    caveat: str = ""
    any_low: float | None = None
    any_high: float | None = None
    unseen: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value not in (None, "")}

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> Interval:
        """What `to_json` made."""
        return cls(**{field.name: row[field.name] for field in fields(cls) if field.name in row})

    def ends(self) -> tuple[float, float]:
        """The limits; as far as numbers go where one patient alone tells of it."""
        if self.low is None or self.high is None:
            return -math.inf, math.inf
        return self.low, self.high

    def text(self, digits: int = 4) -> str:
        """`0.912 [0.897, 0.925] (95 %, 40 patients, 3 seeds)`."""
        level = "" if self.low is None else f"{100 * self.level:.3g} %, "
        return f"{self.value:.{digits}f}{self.limits_text(digits)} ({level}{self.of()})"

    def limits_text(self, digits: int = 4) -> str:
        """` [0.897, 0.925]`; nothing where there are no limits."""
        if self.low is None or self.high is None:
            return ""
        return f" [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def any_text(self, of: str) -> str:
        if self.any_low is None or self.any_high is None:
            return ""
        return f"; whatever the distribution, {of} is within [{self.any_low:.3f}, {self.any_high:.3f}]"

    def of(self) -> str:
        cases = f", {self.cases} cases" if self.cases != self.patients else ""
        seeds = f", {self.seeds} seeds" if self.seeds > 1 else ""
        return f"{self.patients} patient{'s' * (self.patients != 1)}{cases}{seeds}"


@dataclass(frozen=True)
class Judged:
    """Values of one measure: (cases, seeds, labels), NaN where undefined, and each case's patient.

    Only cases and labels that have a value somewhere. The mean is that of the labels' means over cases, each
    the mean over its seeds.
    """

    values: Floats
    patients: npt.NDArray[np.intp]

    @property
    def count(self) -> int:
        return int(self.patients.max()) + 1

    def mean(self) -> float:
        has, of_cases = self._of_cases()
        return math.fsum(_mean(column[there]) for column, there in zip(of_cases.T, has.T)) / has.shape[1]

    def _of_cases(self) -> tuple[npt.NDArray[np.bool_], Floats]:
        """(cases, labels): whether there is a value, and the mean over seeds; 0 where there is none."""
        known = np.isfinite(self.values)
        has = np.asarray(known.any(axis=1))
        return has, np.where(has, np.nansum(self.values, axis=1) / np.maximum(known.sum(axis=1), 1), 0.0)

    def table(self) -> Floats:
        """(1, patients, seeds): what each patient adds to the mean, by seed; their mean is the mean.

        A ratio's influence: patients with more cases, and labels that few have, weigh what they weigh there.
        """
        known, (has, of_cases) = np.isfinite(self.values), self._of_cases()
        means = of_cases.sum(axis=0) / has.sum(axis=0)
        weight = self.count / (has.sum(axis=0) * len(means))
        # a seed that has no value of a case is taken to have the case's mean
        filled = np.where(known, np.nan_to_num(self.values), of_cases[:, None, :]) - means
        weights = np.where(has, weight * self._leverage(has), 0.0)
        added = (filled * weights[:, None, :]).sum(axis=2)
        table = np.zeros((self.count, self.values.shape[1]))
        np.add.at(table, self.patients, added)
        return (table - table.mean() + self.mean())[None]

    def _leverage(self, has: npt.NDArray[np.bool_]) -> Floats:
        """(cases, labels): by how much more a patient's part moves the mean than it seems, as the mean leans
        towards patients with many cases (the jackknife's; 1 where all have as many).
        """
        cases = np.zeros((self.count, has.shape[1]))
        np.add.at(cases, self.patients, has.astype(np.float64))
        rest = 1 - cases / cases.sum(axis=0)
        even = 1 - 1 / self.count
        return np.asarray(np.where(rest > 0, even / np.where(rest > 0, rest, 1.0), 1.0)[self.patients])

    def weights(self) -> Floats:
        """What each patient weighs in the mean."""
        return np.bincount(self.patients).astype(np.float64)

    def alone(self) -> bool:
        """Whether each patient has one case, in one training, and one label: a plain sample."""
        return self.values.shape[1:] == (1, 1) and self.count == len(self.values)


def judged(values: npt.ArrayLike, patients: Sequence[Hashable] | None = None) -> Judged | None:
    """Of (cases,), (cases, seeds) or (cases, seeds, labels); None where no value is defined.

    Each case is a patient where `patients` does not say otherwise.
    """
    array = np.asarray(values, np.float64)
    array = array.reshape(*array.shape, *[1] * (3 - array.ndim))
    known = np.isfinite(array)
    cases, seeds, labels = (
        np.asarray(known.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)
    )
    if not known.any():
        return None
    names = range(len(array)) if patients is None else patients
    kept = [name for name, has in zip(names, cases, strict=True) if has]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(kept))}
    return Judged(array[cases][:, seeds][:, :, labels], np.array([numbers[name] for name in kept], np.intp))


def mean_interval(
    values: npt.ArrayLike,
    patients: Sequence[Hashable] | None = None,
    *,
    bounds: tuple[float, float] | None = SHARES,
    level: float = LEVEL,
) -> Interval | None:
    """Of the mean of what `judged` takes; `bounds` are those of the measure, None where it has none."""
    of = judged(values, patients)
    if of is None:
        return None
    return _interval_of(of.values.tobytes(), of.values.shape, tuple(of.patients.tolist()), bounds, level)


@lru_cache(maxsize=8192)
def _interval_of(
    values: bytes,
    shape: tuple[int, ...],
    patients: tuple[int, ...],
    bounds: tuple[float, float] | None,
    level: float,
) -> Interval:
    """Once of the same values, as files, pages and printed lines tell of them."""
    of = Judged(np.frombuffer(values, np.float64).reshape(shape), np.array(patients, np.intp))
    found: dict[str, Any] = {"value": of.mean(), "level": level, **_counts(of)}
    if of.count < 2:
        return Interval(**found, method="none: of one patient nothing follows")
    spread = Spread(parts(of.table(), weights=of.weights()))
    (low,), (high,) = spread.limits(level)
    method = method_of(of.count, of.values.shape[1])
    bounded = bounds is not None and math.isfinite(bounds[1])
    if not bounded and not (math.isfinite(low) and math.isfinite(high)):
        (low,), (high,) = Spread(spread.parts, resampled=False).limits(level)
        method = "Student's t over patients, as most of them are alike"
    if bounds and math.isinf(bounds[1]):
        low = max(bounds[0], low)
    elif bounds:
        (any_low,), (any_high,) = for_any_distribution(spread.parts.influence, _widest(of, bounds), level)
        found |= {"any_low": max(bounds[0], float(any_low)), "any_high": min(bounds[1], float(any_high))}
        if high - low < 1e-9:  # all alike: of no spread no resampling makes one
            low, high, method = found["any_low"], found["any_high"], "bounds for any distribution (Gaffke)"
        low, high = max(found["any_low"], low), min(found["any_high"], high)
    low, high = min(low, found["value"]), max(high, found["value"])
    return Interval(
        **found, low=float(low), high=float(high), method=method,
        caveat=caveat(of.count), unseen=_unseen(of.count),
    )  # fmt: skip


def _widest(of: Judged, bounds: tuple[float, float]) -> tuple[float, float]:
    """Between what a patient's influence can lie: of one with many cases, further away than a value can."""
    mean, share = of.mean(), float(np.bincount(of.patients).max()) / len(of.values)
    weight = max(1.0, share * (of.count - 1) / (1 - share))
    return mean + weight * (bounds[0] - mean), mean + weight * (bounds[1] - mean)


def median_interval(
    values: npt.ArrayLike, patients: Sequence[Hashable] | None = None, *, level: float = LEVEL
) -> Interval | None:
    """Of the median of (cases,) or (cases, seeds), pooled.

    Of plain samples by order statistics, interpolated (Hettmansperger and Sheather 1986), which need no
    resampling; where cases share a patient or there are several seeds, by the interval of the share of values
    that lie below (Woodruff 1952).
    """
    of = judged(values, patients)
    if of is None:
        return None
    pooled = np.sort(of.values[np.isfinite(of.values)])
    found: dict[str, Any] = {"value": float(np.median(pooled)), **_counts(of)}
    if of.count < 2:
        return Interval(**found, level=level, method="none: of one patient nothing follows")
    if of.alone():
        low, high, held = _by_order(pooled, level)
        method = "order statistics (Hettmansperger-Sheather)"
    else:
        share = np.where(np.isfinite(of.values), of.values <= found["value"], np.nan).astype(np.float64)
        spread = Spread(parts(Judged(share, of.patients).table(), weights=of.weights()))
        from_below, to_above = spread.limits(level)
        half = max(float(spread.mean[0] - from_below[0]), float(to_above[0] - spread.mean[0]))
        low, high = np.quantile(pooled, [max(0.0, 0.5 - half), min(1.0, 0.5 + half)])
        held, method = level, "share of values below (Woodruff)"
    return Interval(
        **found, level=held, low=float(low), high=float(high), method=method,
        caveat=caveat(of.count) if of.count < FEW else "", unseen=_unseen(of.count),
    )  # fmt: skip


def _by_order(values: Floats, level: float) -> tuple[float, float, float]:
    """Limits, and the level that they have: lower than asked for where smallest to largest is not enough."""
    from scipy.stats import binom

    n = len(values)
    held = 1 - 2 * binom.cdf(np.arange(n // 2 + 1), n, 0.5)  # of the first smallest and largest, the second …
    if held[0] < level:
        return values[0], values[-1], float(held[0])
    depth = int(np.count_nonzero(held >= level))
    deeper = min(depth + 1, (n + 1) // 2)
    part = (held[depth - 1] - level) / (held[depth - 1] - held[depth])
    step = (n - depth) * part / (depth + (n - 2 * depth) * part)
    low = values[depth - 1] + step * (values[deeper - 1] - values[depth - 1])
    high = values[n - depth] + step * (values[n - deeper] - values[n - depth])
    return low, high, level


def method_of(patients: int, seeds: int) -> str:
    if not FEWEST_PATIENTS <= patients <= MOST_PATIENTS:
        over = "Student's t over patients"
    elif patients < STUDENTISED_BELOW:
        over = f"bootstrap-t over patients ({RESAMPLES:,} resamples)"
    else:
        over = f"BCa bootstrap over patients ({RESAMPLES:,} resamples)"
    few = ", as wide as so few ask for" if seeds <= FEW_SEEDS else ""
    return over + (f", variance of {seeds} seeds beside it{few}" if seeds > 1 else "")


def caveat(patients: int) -> str:
    """What an interval of so few cannot know; nothing where it is as good as it says."""
    if patients >= SOME:
        return ""
    who = f"{patients} patient{'s' * (patients != 1)}"
    unseen = f"up to {_unseen(patients):.0%} of all patients may be of a kind that is not among them"
    if patients < FEW:
        return f"{who}, n too small for a claim: intervals are wide, and {unseen}"
    return f"{who}: {unseen}"


def _unseen(patients: int) -> float:
    """How common a kind of patient may be of which none is among so many (95 %)."""
    return float(1 - 0.05 ** (1 / patients))


def _counts(of: Judged) -> dict[str, int]:
    return {"patients": of.count, "cases": len(of.values), "seeds": of.values.shape[1]}


def _mean(values: Floats) -> float:
    return math.fsum(values) / len(values)


def said_once(intervals: Mapping[str, Interval]) -> list[str]:
    """By which methods intervals were made, and what few patients leave open: lines for below a table.

    `intervals` are by what they are of; the first of those with the fewest patients is told.
    """
    known = {name: one for name, one in intervals.items() if one.low is not None}
    if not known:
        return []
    several = min(one.seeds for one in known.values()) > 1
    trainings = "" if several else "; they tell of other patients, not of other seeds"
    lines = [f"intervals: {'; '.join(dict.fromkeys(one.method for one in known.values()))}{trainings}"]
    name, worst = min(known.items(), key=lambda one: one[1].patients)
    if worst.caveat:
        lines.append(worst.caveat + worst.any_text(name))
    return lines
