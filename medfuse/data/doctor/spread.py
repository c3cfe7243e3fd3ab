"""What is usual in a dataset, and what lies far from it, by medians: a few odd cases hardly count in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FEW = 8
"""Of fewer cases nothing is said that only the others tell."""
_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, and their usual distance to it as a standard deviation."""

    middle: float
    sigma: float

    @classmethod
    def of(cls, numbers: Sequence[float] | npt.NDArray[np.float64], *, floor: float = 0.0) -> Spread:
        """`floor`: the least deviation that is believed, as equal numbers have none."""
        known = np.asarray(numbers, float)
        known = known[np.isfinite(known)]
        if not known.size:
            return cls(0.0, np.inf)
        middle = float(np.median(known))
        return cls(middle, max(floor, _TO_SIGMA * float(np.median(np.abs(known - middle)))))

    @classmethod
    def lower(cls, numbers: Sequence[float], *, floor: float = 0.0) -> Spread:
        """Of numbers that lie close together above their median, and apart below it."""
        both = cls.of(numbers, floor=floor)
        known = [n for n in numbers if np.isfinite(n)]
        below = both.middle - float(np.percentile(known, 16)) if known else 0.0
        return cls(both.middle, max(both.sigma, below))

    @classmethod
    def upper(cls, numbers: Sequence[float], *, floor: float = 0.0) -> Spread:
        """Of numbers that lie close together below their median, and apart above it."""
        turned = cls.lower([-n for n in numbers], floor=floor)
        return cls(-turned.middle, turned.sigma)

    def away(self, number: float) -> float:
        """By how many deviations a number is above (or, negative, below) the median."""
        return (number - self.middle) / self.sigma if self.sigma > 0 else 0.0
