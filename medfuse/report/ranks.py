"""In which order models stand, and how often they would with other patients and other seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medfuse.report.resampling import RESAMPLES, Floats, drawn


@dataclass(frozen=True)
class Rank:
    """`first`: the share of drawings in which the model is the best; in 95 % its rank is `low` to `high`."""

    candidate: str
    rank: int
    first: float
    low: int
    high: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def ranks(names: Sequence[str], tables: Sequence[Floats]) -> list[Rank]:
    """Of (1, patients, seeds) of each model on the same patients: patients are drawn once for all models, and
    seeds for each. Best first; what is level shares the better rank.
    """
    random = np.random.default_rng(0)
    means = np.array([table.mean() for table in tables])
    drawings = np.stack([_drawings(table[0], random) for table in tables])
    order = _ranked(drawings)
    low, high = np.quantile(order, [0.025, 0.975], axis=1, method="inverted_cdf")
    best = order == 1
    first = (best / best.sum(axis=0)).mean(axis=1)
    now = _ranked(means[:, None])[:, 0]
    made = [
        Rank(name, int(now[n]), round(float(first[n]), 4), int(low[n]), int(high[n]))
        for n, name in enumerate(names)
    ]
    return sorted(made, key=lambda one: one.rank)


def _drawings(table: Floats, random: np.random.Generator) -> Floats:
    """The mean in each drawing of patients and seeds. Few seeds, drawn anew, vary by (n - 1) / n of what they
    should: they are spread by that.
    """
    patients, seeds = table.shape
    by_seed = table.mean(axis=0)
    chosen = random.integers(seeds, size=(RESAMPLES, seeds))
    luck = (by_seed[chosen].mean(axis=1) - by_seed.mean()) * np.sqrt(seeds / max(seeds - 1, 1))
    return np.asarray(table.mean(axis=1) @ drawn(patients) + luck)


def _ranked(values: Floats) -> Floats:
    """1 for the highest of each column; differences of rounding alone are none."""
    rounded = np.round(values, 9)
    return np.asarray(1 + (rounded[None] > rounded[:, None]).sum(axis=1))
