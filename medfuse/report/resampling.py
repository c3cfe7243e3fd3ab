"""From what each patient adds to a mean, by seed, to limits and p-values: the bootstrap over patients,
with seeds as a level of their own.

Everything works on rows at once, so that what is printed and what simulations judge is the same code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 5_000
STUDENTISED_BELOW = 200
"""Patients below which the bootstrap is studentised; from there on it is BCa."""
FEWEST_PATIENTS, MOST_PATIENTS = 5, 5_000
"""Nothing is resampled of fewer, as too many drawings are of one patient alone, nor of more, as the mean is
as good as normal: there Student's t has the limits."""
FEW_SEEDS = 3
_CHUNK = 1_000  # rows that are resampled at once


@dataclass(frozen=True)
class Parts:
    """Where the uncertainty of a mean comes from, a row for each mean.

    influence: (rows, patients), what each adds; its mean is the mean. `of_patients` and `of_seeds` are
    variances of the mean, `freedom` the degrees of freedom of their sum (Satterthwaite 1946), and
    `few_seeds` those of the seeds alone, where they are so few that these count for themselves; else 0.
    `of_weights`: those of the patients alone.
    """

    influence: Floats
    of_patients: Floats
    of_seeds: Floats
    freedom: Floats
    few_seeds: int = 0
    of_weights: float = math.inf


def parts(table: Floats, other: Floats | None = None, weights: Floats | None = None) -> Parts:
    """Of (rows, patients, seeds), every patient judged by every seed; with `other`, of the differences to it.

    Two models share their patients, and each has seeds of its own. One that was trained once is taken to vary
    as the other does. Where neither was trained twice, nothing is known of seeds, and their part is 0.
    `weights`: what each patient weighs in the mean, where they differ; few that weigh much are few patients.
    """
    tables = [table] if other is None else [table, other]
    influence = table.mean(axis=2) - (0 if other is None else other.mean(axis=2))
    rows, patients = influence.shape
    of_patients = influence.var(axis=1, ddof=1) / patients
    levels = [_level(one) for one in tables if one.shape[2] > 1]
    if len(levels) < len(tables):
        levels = [level.times(1 + level.seeds) for level in levels]
    of_seeds = sum((level.variance for level in levels), np.zeros(rows))
    alone = float(patients - 1 if weights is None else max(1.0, _effective(weights) - 1))
    doubt = of_patients**2 / alone + sum((level.doubt for level in levels), np.zeros(rows))
    freedom = (of_patients + of_seeds) ** 2 / np.where(doubt > 0, doubt, np.inf)
    few = levels[0].seeds - 1 if len(levels) == 1 and levels[0].seeds <= FEW_SEEDS else 0
    return Parts(influence, of_patients, of_seeds, np.where(doubt > 0, freedom, alone), few, alone)


def _effective(weights: Floats) -> float:
    """As how many patients of one weight these are, as far as their variance is known (Satterthwaite)."""
    return float((weights**2).sum() ** 2 / (weights**4).sum())


@dataclass(frozen=True)
class _Level:
    """One model's seeds: their part in the variance of its mean, and in Satterthwaite's denominator."""

    seeds: int
    variance: Floats
    doubt: Floats

    def times(self, factor: int) -> _Level:
        return _Level(self.seeds, self.variance * factor, self.doubt * factor**2)


def _level(table: Floats) -> _Level:
    """By the mean squares of patients × seeds: what seeds differ in beyond what chance makes of them."""
    _, patients, seeds = table.shape
    by_seed, by_patient = table.mean(axis=1), table.mean(axis=2)
    rest = table - by_patient[:, :, None] - by_seed[:, None, :] + by_seed.mean(axis=1)[:, None, None]
    between = by_seed.var(axis=1, ddof=1) / seeds
    freedom = (patients - 1) * (seeds - 1)
    chance = (rest**2).sum(axis=(1, 2)) / freedom / (patients * seeds)
    doubt = between**2 / (seeds - 1) + chance**2 / freedom
    more = between > chance
    return _Level(seeds, np.where(more, between - chance, 0.0), np.where(more, doubt, 0.0))


class Spread:
    """How far each row's mean may lie from the true one, at any level.

    Over patients it is the bootstrap-t (Efron 1979) where they are few and BCa (Efron 1987) where they are
    many. Seeds widen both sides by their variance (Zou and Donner 2008), at Student's quantile for the
    degrees of freedom of the sum, or where there are 2 or 3 seeds for their own. A side has no end where too
    many drawings are of one value alone, as where all patients but one are alike; Student's t, which counts
    where nothing is `resampled`, has one.
    """

    def __init__(self, of: Parts, *, resampled: bool = True) -> None:
        self.parts = of
        self.patients = of.influence.shape[1]
        self.resampled = resampled and FEWEST_PATIENTS <= self.patients <= MOST_PATIENTS
        self.mean: Floats = of.influence.mean(axis=1)

    def limits(self, level: float = 0.95) -> tuple[Floats, Floats]:
        tail = np.full(len(self.mean), (1 - level) / 2)
        return self.mean - self._reach(tail, below=True), self.mean + self._reach(tail, below=False)

    def p_at_most(self, value: float) -> Floats:
        """One-sided p of the hypothesis that the true mean is `value` at most."""
        return self._p(self.mean - value, below=True)

    def p_at_least(self, value: float) -> Floats:
        return self._p(value - self.mean, below=False)

    def _p(self, distance: Floats, *, below: bool) -> Floats:
        """The tail at which the reach is `distance`."""
        low, high = np.full(len(distance), 1 / (2 * RESAMPLES)), np.full(len(distance), 0.5)
        for _ in range(24):
            middle = (low + high) / 2
            beyond = self._reach(middle, below=below) < distance
            low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
        return np.where(distance > 0, high, 1.0)

    def _reach(self, tail: Floats, *, below: bool) -> Floats:
        from scipy.special import stdtrit

        own = self.parts
        plain = stdtrit(self.patients - 1, 1 - tail)
        over_patients = self._over_patients(tail, plain, below)
        if own.few_seeds:
            over_patients = over_patients * stdtrit(own.of_weights, 1 - tail) / plain
            return np.sqrt(over_patients**2 + stdtrit(own.few_seeds, 1 - tail) ** 2 * own.of_seeds)
        scale = stdtrit(own.freedom, 1 - tail) / plain
        return np.asarray(scale * np.sqrt(over_patients**2 + plain**2 * own.of_seeds))

    def _over_patients(self, tail: Floats, plain: Floats, below: bool) -> Floats:
        error = np.sqrt(self.parts.of_patients)
        if not self.resampled:
            return np.asarray(plain * error)
        if self.patients < STUDENTISED_BELOW:
            ratio = _at(self._ratios, 1 - tail if below else tail)
            return np.where(error > 0, np.maximum(0.0, ratio if below else -ratio) * error, 0.0)
        from scipy.special import ndtr, ndtri

        means, bias, speed = self._means
        z = bias + ndtri(tail if below else 1 - tail)
        moved = _at(means, ndtr(bias + z / (1 - speed * z)))
        return np.maximum(0.0, -moved if below else moved)

    @cached_property
    def _ratios(self) -> Floats:
        """(rows, resamples), in order: (resampled mean - mean) / its standard error."""
        made = []
        for rows in self._centred():
            means, squares = rows @ drawn(self.patients), rows**2 @ drawn(self.patients)
            variance = (squares - means**2) / (self.patients - 1)
            alone = variance <= 1e-9 * (rows**2).mean(axis=1, keepdims=True)  # one value, drawn each time
            endless = np.where(means == 0, 0.0, np.copysign(np.inf, means))
            ratio = np.where(alone, endless, means / np.sqrt(np.where(alone, 1.0, variance)))
            ratio.sort(axis=1)
            made.append(ratio)
        return np.concatenate(made)

    @cached_property
    def _means(self) -> tuple[Floats, Floats, Floats]:
        """(rows, resamples) of resampled means - mean, in order, and each row's bias and acceleration."""
        from scipy.special import ndtri

        made, biases, speeds = [], [], []
        for rows in self._centred():
            means = rows @ drawn(self.patients)
            below = ((means < 0).mean(axis=1) + (means <= 0).mean(axis=1)) / 2
            squares = (rows**2).sum(axis=1)
            means.sort(axis=1)
            made.append(means)
            biases.append(ndtri(np.clip(below, 1 / RESAMPLES, 1 - 1 / RESAMPLES)))
            speeds.append((rows**3).sum(axis=1) / np.where(squares > 0, 6 * squares**1.5, 1.0))
        return np.concatenate(made), np.concatenate(biases), np.concatenate(speeds)

    def _centred(self) -> list[Floats]:
        rows = self.parts.influence - self.mean[:, None]
        return [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]


def for_any_distribution(
    rows: Floats, bounds: tuple[float, float], level: float = 0.95
) -> tuple[Floats, Floats]:
    """Limits of the mean that hold whatever the distribution within `bounds`, with `level` at least.

    A patient that nobody saw, at the worst of its bounds, enters a Bayesian bootstrap (Gaffke 2005). Of zeros
    and ones the limits are those of Clopper and Pearson.
    """
    patients = rows.shape[1]
    shares = _shares(patients)
    seen, tail = rows @ shares[:-1], np.full(len(rows), (1 - level) / 2)
    low, high = (np.sort(seen + bound * shares[-1], axis=1) for bound in bounds)
    return _at(low, tail), _at(high, 1 - tail)


@lru_cache(maxsize=4)
def _shares(patients: int) -> Floats:
    return np.ascontiguousarray(np.random.default_rng(0).dirichlet(np.ones(patients + 1), RESAMPLES).T)


@lru_cache(maxsize=4)
def drawn(patients: int) -> Floats:
    """(patients, resamples): the share of each in each drawing; always the same ones."""
    even = np.full(patients, 1 / patients)
    counts = np.random.default_rng(0).multinomial(patients, even, RESAMPLES)
    return np.ascontiguousarray(counts.T / patients)


def _at(ordered: Floats, level: Floats) -> Floats:
    """The quantile of each ordered row."""
    count = ordered.shape[1]
    place = np.clip(level * (count + 1) - 1, 0, count - 1)
    low = np.floor(place).astype(int)
    each = np.arange(len(ordered))
    here, there = ordered[each, low], ordered[each, np.minimum(low + 1, count - 1)]
    known = np.isfinite(here) & np.isfinite(there)
    steps = np.subtract(there, here, out=np.zeros_like(here), where=known)
    return np.asarray(np.where(known, here + steps * (place - low), here))
