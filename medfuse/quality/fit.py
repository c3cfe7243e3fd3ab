"""From the scores of a class to the Dice that is to be expected: a fit that falls as any score gets worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import asinh

import numpy as np
import numpy.typing as npt

from medfuse.quality.isotonic import Falling
from medfuse.quality.scores import BY_NAME

Numbers = npt.NDArray[np.float64]
Known = Mapping[str, float | None]

PRIOR_CASES = 30.0
"""How many cases what is believed beforehand counts as: that each score tells a little."""
_BELIEVED = 0.5  # deviations of Dice that a deviation of scores is believed to cost, if they are independent


@dataclass(frozen=True)
class Weighed:
    """One score in a fit: what it usually is (as `Score.badness`), and how much it counts."""

    mean: float
    deviation: float
    weight: float

    def deviations(self, name: str, value: float | None) -> float:
        """By how many deviations it is worse than usual, long tails drawn in; 0 of what is not known."""
        if value is None:
            return 0.0
        return asinh((BY_NAME[name].badness(value) - self.mean) / self.deviation)


@dataclass(frozen=True)
class Fit:
    """`index`: a sum of the scores, each as its deviations from what is usual; the higher the worse.

    The Dice that is expected is the mean of two functions of the index, of which none rises: the isotonic
    `steps`, and a straight line from `level` with `slope`, which goes on where no case was.
    """

    scores: Mapping[str, Weighed]
    steps: Falling
    level: float
    slope: float
    worst: float
    """The largest index that any case had."""

    @classmethod
    def of(cls, rows: Sequence[Known], dice: Sequence[float]) -> Fit:
        """From cases of one class that were judged. Scores that no case has are left out, and
        those that one network has not."""
        names = [
            s.name
            for s in BY_NAME.values()
            if s.bad != "no" and s.alone and any(row.get(s.name) is not None for row in rows)
        ]
        usual = {name: _usual(name, [row.get(name) for row in rows]) for name in names}
        table = np.array([[usual[n].deviations(n, row.get(n)) for n in names] for row in rows])
        table = table.reshape(len(rows), len(names))
        wanted = np.asarray(dice, np.float64)
        weights = _weights(table, wanted)
        index = table @ weights
        slope = min(0.0, _slope(index, wanted))
        return cls(
            {n: Weighed(usual[n].mean, usual[n].deviation, float(w)) for n, w in zip(names, weights)},
            Falling.fit(index, wanted),
            float(wanted.mean() - slope * index.mean()),
            slope,
            float(index.max()),
        )

    def index(self, row: Known) -> float:
        return sum(one.weight * one.deviations(name, row.get(name)) for name, one in self.scores.items())

    def expected(self, rows: Sequence[Known]) -> Numbers:
        """The Dice of each, 0 … 1."""
        index = np.array([self.index(row) for row in rows])
        line = self.level + self.slope * index
        return np.clip((self.steps(index) + line) / 2, 0, 1)


def _usual(name: str, values: Sequence[float | None]) -> Weighed:
    bad = np.array([BY_NAME[name].badness(value) for value in values if value is not None])
    return Weighed(float(bad.mean()), max(float(bad.std()), BY_NAME[name].least), 0.0)


def _weights(table: Numbers, dice: Numbers) -> Numbers:
    """None below 0: the least squares of what Dice is lost, drawn towards what is believed beforehand."""
    from scipy.optimize import nnls

    count = table.shape[1]
    if not count:
        return np.zeros(0)
    believed = np.full(count, _BELIEVED * max(float(dice.std()), 1e-3) / np.sqrt(count))
    strength = np.sqrt(PRIOR_CASES)
    lost = dice.mean() - dice
    whole = np.vstack([table - table.mean(0), strength * np.eye(count)])
    found, _ = nnls(whole, np.concatenate([lost, strength * believed]))
    return np.asarray(found, np.float64)


def _slope(index: Numbers, dice: Numbers) -> float:
    spread = float(((index - index.mean()) ** 2).sum())
    return float(((index - index.mean()) * (dice - dice.mean())).sum()) / spread if spread > 1e-12 else 0.0
