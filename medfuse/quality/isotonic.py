"""The best fit that never rises, in pieces: what pools neighbours until they are in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Falling:
    """A function of one number that never rises: straight between `at`, where it is `values`, flat beyond."""

    at: tuple[float, ...]
    values: tuple[float, ...]

    @classmethod
    def fit(cls, at: Sequence[float] | Numbers, values: Sequence[float] | Numbers) -> Falling:
        """The least squares of all that never rise (Ayer et al. 1955); equal places count together."""
        places, which = np.unique(np.asarray(at, np.float64), return_inverse=True)
        counts = np.bincount(which).astype(np.float64)
        means = np.bincount(which, np.asarray(values, np.float64)) / counts
        blocks: list[tuple[float, float, int]] = []  # mean, weight, places
        for mean, weight in zip(means.tolist(), counts.tolist()):
            block = (mean, weight, 1)
            while blocks and blocks[-1][0] <= block[0]:
                before = blocks.pop()
                weight = before[1] + block[1]
                mean = (before[0] * before[1] + block[0] * block[1]) / weight
                block = (mean, weight, before[2] + block[2])
            blocks.append(block)
        level = np.repeat([mean for mean, _, _ in blocks], [n for _, _, n in blocks])
        ends = np.flatnonzero(np.diff(level, prepend=np.nan, append=np.nan))  # where a level begins, or ended
        kept = sorted({*ends[:-1].tolist(), *(ends[1:] - 1).tolist()})
        return cls(tuple(places[kept].tolist()), tuple(level[kept].tolist()))

    def __call__(self, at: Sequence[float] | Numbers) -> Numbers:
        found: Numbers = np.interp(np.asarray(at, np.float64), self.at, self.values)
        return found
