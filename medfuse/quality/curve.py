"""Which order of cases puts the bad ones last: risk and coverage, and the area under their curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

RESAMPLES = 2000


def risks(order: Sequence[float] | Numbers, dice: Sequence[float] | Numbers) -> Numbers:
    """Of k = 1 … n cases, the mean 1 - Dice of those k that are trusted most.

    order: the higher, the more is trusted. Cases that are trusted alike stand for each other: each has the
    mean of them all, which is what a random order of them has on average.
    """
    trust, risk = np.asarray(order, np.float64), 1 - np.asarray(dice, np.float64)
    _, which = np.unique(-trust, return_inverse=True)
    means = np.bincount(which, risk) / np.bincount(which)
    ranked = means[np.sort(which)]
    return np.asarray(np.cumsum(ranked) / np.arange(1, len(ranked) + 1))


def aurc(order: Sequence[float] | Numbers, dice: Sequence[float] | Numbers) -> float:
    """The area under risk against coverage: the mean of `risks`, 0 … 1, the lower the better
    (Geifman & El-Yaniv 2017). That of no order at all is the mean risk."""
    return float(risks(order, dice).mean())


@dataclass(frozen=True)
class Interval:
    """A number, and where it would be with other cases in 95 of 100 draws (bootstrap percentiles)."""

    value: float
    low: float
    high: float


def compared(
    orders: dict[str, Numbers], dice: Numbers, groups: Sequence[str]
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """The area of each order, and that of the first less each other's: below 0 the first is better.

    Whole groups are drawn, always the same ones.
    """
    names = [*orders]
    first = names[0]
    members = [np.flatnonzero(np.asarray(groups) == group) for group in sorted({*groups})]
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        at = np.concatenate([members[n] for n in random.integers(len(members), size=len(members))])
        drawn.append([aurc(orders[name][at], dice[at]) for name in names])
    table = np.array(drawn)
    whole = [aurc(orders[name], dice) for name in names]
    areas = {name: _interval(whole[n], table[:, n]) for n, name in enumerate(names)}
    ahead = {
        name: _interval(whole[0] - whole[n], table[:, 0] - table[:, n])
        for n, name in enumerate(names)
        if name != first
    }
    return areas, ahead


def _interval(value: float, draws: Numbers) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(value, float(low), float(high))
