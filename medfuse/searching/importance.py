"""How much each choice mattered in a search, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.searching.proposals import Tried
from medfuse.space.dimensions import Choices, Dimension, Range, words

FEWEST = 8
"""Trials below which nothing is said."""
_BINS = 3
_RESAMPLED = 500


@dataclass(frozen=True)
class Importance:
    """Share of the variance of Dice between trials that a key goes with; 95 % in `low` to `high`."""

    key: str
    share: float
    low: float
    high: float


def importances(
    dimensions: Mapping[str, Dimension], tried: Sequence[Tried], seed: int = 1
) -> tuple[Importance, ...]:
    """Of each key, the largest first; nothing where trials are too few.

    ε² of a one-way analysis of variance (Kelley 1935): the share of the variance between values, without what
    chance alone would make of it. Numbers are sorted into thirds, subsets by their members; a key without
    meaning in a trial is a value of its own. The interval is that of trials drawn anew.
    """
    if len(tried) < FEWEST:
        return ()
    dice = np.array([one.scores[0] for one in tried])
    random = np.random.default_rng(seed)
    drawn = random.integers(0, len(dice), (_RESAMPLED, len(dice)))
    found = []
    for key, dimension in dimensions.items():
        codes = _codes(dimension, [one.values.get(key) for one in tried])
        shares = np.sort([_share(dice[i], codes[i]) for i in drawn])
        low, high = (float(shares[int(q * (_RESAMPLED - 1))]) for q in (0.025, 0.975))
        found.append(Importance(key, _share(dice, codes), low, high))
    return tuple(sorted(found, key=lambda one: -one.share))


def _share(dice: npt.NDArray[np.float64], codes: npt.NDArray[np.int64]) -> float:
    total = float(((dice - dice.mean()) ** 2).sum())
    values, inverse = np.unique(codes, return_inverse=True)
    n, k = len(dice), len(values)
    if total <= 0 or k < 2 or n <= k:
        return 0.0
    counts = np.bincount(inverse)
    means = np.bincount(inverse, dice) / counts
    within = float(((dice - means[inverse]) ** 2).sum())
    return max(0.0, 1 - within / (n - k) * (n - 1) / total)


def _codes(dimension: Dimension, values: Sequence[Any]) -> npt.NDArray[np.int64]:
    """The same number for values that count as one."""
    if isinstance(dimension, Range):
        numbers = np.array([np.nan if not _is_number(v) else float(v) for v in values])
        known = numbers[~np.isnan(numbers)]
        if not len(known):
            return np.zeros(len(values), np.int64)
        edges = np.quantile(known, [n / _BINS for n in range(1, _BINS)])
        return np.where(np.isnan(numbers), -1, np.searchsorted(edges, np.nan_to_num(numbers))).astype(
            np.int64
        )
    said = [words(v) if v is not None or isinstance(dimension, Choices) else "" for v in values]
    known_words = sorted({*said})
    return np.array([known_words.index(one) for one in said], np.int64)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
