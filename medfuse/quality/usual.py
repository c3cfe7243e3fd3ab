"""What is usual among the cases of training, in a few numbers, and how far another case is from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import numpy.typing as npt

KINDS = ("spacing", "field_of_view", "intensities")
_MAD = 1.4826  # what makes the median deviation of a normal distribution a standard deviation
_NEAR = 0.05  # the least deviation of volumes: a twentieth
_MOST = 500  # cases that are each held against the others


@dataclass(frozen=True)
class UsualVolume:
    """Of a class: in how many of `cases` it is, and the mean and deviation of the logarithm of its ml."""

    cases: int
    present: int
    mean: float = 0.0
    deviation: float = 0.0

    @classmethod
    def of(cls, volumes_ml: Sequence[float]) -> UsualVolume:
        logs = np.log([ml for ml in volumes_ml if ml > 0])
        if not len(logs):
            return cls(len(volumes_ml), 0)
        deviation = float(logs.std(ddof=1)) if len(logs) > 1 else 0.0
        return cls(len(volumes_ml), len(logs), float(logs.mean()), deviation)

    def score(self, ml: float) -> float | None:
        """By how many deviations a volume is larger (or, below 0, smaller) than is usual.

        None where it is 0, or fewer than three cases had any.
        """
        if ml <= 0 or self.present < 3:
            return None
        return (log(ml) - self.mean) / max(self.deviation, _NEAR)


@dataclass(frozen=True)
class UsualNumbers:
    """Of some numbers of each case: median and deviation of each, how far from it the farthest case is."""

    middle: tuple[float, ...]
    deviation: tuple[float, ...]
    farthest: float
    cases: int

    @classmethod
    def of(cls, rows: Sequence[Sequence[float]], floors: Sequence[float]) -> UsualNumbers:
        """Each case is held against the others alone, as a new one will be. floors: the least deviations."""
        table, least = np.asarray(rows, np.float64), np.asarray(floors, np.float64)
        middle, deviation = _spread(table, least)
        some = range(0, len(table), -(-len(table) // _MOST)) if len(table) > 1 else ()
        own = [_distance(table[n], *_spread(np.delete(table, n, 0), least)) for n in some]
        return cls(tuple(middle.tolist()), tuple(deviation.tolist()), max(own, default=0.0), len(table))

    def score(self, row: Sequence[float]) -> float | None:
        """0 (as the middle) upwards; 1: as far from it as the farthest case of training; none without it."""
        if len(row) != len(self.middle) or not np.isfinite(row).all():
            return None
        found = _distance(np.asarray(row), np.asarray(self.middle), np.asarray(self.deviation))
        return found / max(self.farthest, 1.0)


Numbers = npt.NDArray[np.float64]


def _spread(table: Numbers, least: Numbers) -> tuple[Numbers, Numbers]:
    middle = np.median(table, axis=0)
    spread = _MAD * np.median(np.abs(table - middle), axis=0)
    wide = (table.max(0) - table.min(0)) / 4
    return middle, np.maximum(np.maximum(spread, wide), least)


def _distance(row: Numbers, middle: Numbers, deviation: Numbers) -> float:
    return float(np.abs((row - middle) / deviation).max()) if len(row) else 0.0


@dataclass(frozen=True)
class Usual:
    """All that is usual: volumes by class, and numbers of each kind in KINDS, as far as they are known."""

    volumes: Mapping[str, UsualVolume]
    numbers: Mapping[str, UsualNumbers]

    def distances(self, rows: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
        """How far a case is from what is usual, for each kind of numbers."""
        return {
            kind: known.score(rows[kind]) if kind in rows else None for kind, known in self.numbers.items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Usual:
        return cls(
            {name: UsualVolume(**one) for name, one in data.get("volumes", {}).items()},
            {
                name: UsualNumbers(
                    tuple(one["middle"]), tuple(one["deviation"]), one["farthest"], one["cases"]
                )
                for name, one in data.get("numbers", {}).items()
            },
        )
