"""A lower bound that holds in as many cases as it says, as long as others are like those it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

FEWEST = 10
"""Of fewer cases no bound is made."""
LEVEL = 0.9
"""Of new cases, how many are to be at their bound or above it."""
_ROOM = 0.02  # so that a perfect expectation leaves something to miss


def shortfalls(expected: Numbers, dice: Numbers) -> Numbers:
    """By how much less than expected each case had, in units of what it was expected to lose."""
    return (expected - dice) / (1 - expected + _ROOM)


def bound(expected: Numbers, quantile: float) -> Numbers:
    """The Dice that a shortfall of `quantile` leaves, 0 … 1."""
    return np.clip(expected - quantile * (1 - expected + _ROOM), 0, 1)


def conformal_quantile(found: Sequence[float] | Numbers, level: float = LEVEL) -> float | None:
    """The ⌈(n + 1) level⌉-th smallest shortfall, which that of a further, exchangeable case exceeds in at
    most 1 - level of all draws (Vovk et al. 2005). None where n is below FEWEST, or too small for the level.
    """
    n = len(found)
    place = ceil((n + 1) * level - 1e-9)
    if n < FEWEST or place > n:
        return None
    return float(np.sort(np.asarray(found, np.float64))[place - 1])


def parts_of(groups: Sequence[str], parts: int = 10) -> npt.NDArray[np.int64]:
    """A part for each case, such that those of one group are in one; always the same for the same groups."""
    sizes = {group: groups.count(group) for group in sorted({*groups})}
    count = min(parts, len(sizes))
    filled = [0] * count
    place = {}
    for group in sorted(sizes, key=lambda group: (-sizes[group], group)):
        place[group] = filled.index(min(filled))
        filled[place[group]] += sizes[group]
    return np.array([place[group] for group in groups], np.int64)
