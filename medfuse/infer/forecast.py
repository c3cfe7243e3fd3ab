"""What a whole folder will take, from the few cases that were really done: hours, cost, and the tail."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean, median
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.dispatch import Timetable, dispatch
from medfuse.core.errors import MedfuseError
from medfuse.core.text import lasting

SAMPLED = 20
"""Cases that are done to know of the others."""
_EACH = 4
"""Of which each worker has to do so many, so that there is time between them."""
_DRAWS, _ENDS = 100, (5, 95)
_LEAST_TURNS = 8  # for several features

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Price:
    """Of an hour of a worker; `unit` as it was given, such as USD or $."""

    an_hour: float
    unit: str = ""

    @classmethod
    def of(cls, text: str) -> Price:
        """`0.60/h`, `0.60`, `0.60 USD/h`, `$0.60`. Raises MedfuseError."""
        number = r"(\d{1,9}(?:\.\d{1,9})?|\.\d{1,9})"
        found = re.fullmatch(
            rf"\s*(?P<a>[$€£¥]|[A-Za-z]{{3}}\b)?\s*(?P<n>{number})\s*(?P<b>[$€£¥]|(?!/)[A-Za-z]{{3}}\b)?"
            r"\s*(?:/\s*(?:h|hr|hour))?\s*",
            text,
        )
        if not found or (found["a"] and found["b"]):
            said = text if len(text) <= 40 else f"{text[:39]}…"
            raise MedfuseError(
                f"--price {said!r}: is no price of a worker's hour; write it as 0.60/h or 0.60 USD/h"
            )
        return cls(float(found["n"]), found["a"] or found["b"] or "")

    def said(self, amount: float) -> str:
        number = f"{amount:,.2f}" if amount >= 1 or not amount else f"{amount:.2g}"
        return f"{self.unit}{number}" if self.unit in "$€£¥" else f"{number} {self.unit}"


def sampled(sizes: Mapping[str, float], workers: int, seed: int = 0) -> list[str]:
    """Names of cases of every size: one by chance out of each of so many parts with as many cases."""
    names = sorted(sizes, key=lambda name: (sizes[name], name))
    count = min(len(names), max(SAMPLED, _EACH * workers))
    chance = np.random.default_rng(seed)
    edges = np.linspace(0, len(names), count + 1).astype(int)
    return [names[int(chance.integers(low, high))] for low, high in itertools.pairwise(edges) if low < high]


@dataclass(frozen=True)
class Sample:
    """Cases that were done. turns: for how long a case kept a worker busy, in order, and which one it was; of
    the first case of each worker it is not known. load_s: until a worker began with its first."""

    names: tuple[str, ...]
    turns: tuple[float, ...]
    firsts: Mapping[str, float]

    @classmethod
    def of(cls, entries: Mapping[str, Mapping[str, Any]], began: datetime) -> Sample:
        """From a manifest's entries, and when workers were started."""
        by_worker: dict[tuple[str, int], list[tuple[datetime, str]]] = {}
        for name, entry in entries.items():
            place = (str(entry["host"]), int(entry["pid"]))
            by_worker.setdefault(place, []).append((datetime.fromisoformat(entry["written"]), name))
        names, turns, firsts = list[str](), list[float](), dict[str, float]()
        for done in by_worker.values():
            done.sort()
            firsts[done[0][1]] = max(0.0, (done[0][0] - began).total_seconds())
            for (before, _), (after, name) in itertools.pairwise(done):
                names.append(name)
                turns.append(max(1e-3, (after - before).total_seconds()))
        return cls(tuple(names), tuple(turns), firsts)


@dataclass(frozen=True)
class Forecast:
    """What `workers` will take for `cases`. *_range: from the 5th to the 95th percentile.

    alike: whether each worker is a machine such as this one; else all of them are on this one.
    """

    workers: int
    cases: int
    sampled: int
    alike: bool
    wall_s: float
    wall_range_s: tuple[float, float]
    tail_s: float
    tail_range_s: tuple[float, float]
    utilisation: float
    price: Price | None = None

    @property
    def worker_hours(self) -> float:
        return self.workers * self.wall_s / 3600

    def values(self) -> dict[str, Any]:
        said: dict[str, Any] = {
            "workers": self.workers,
            "cases": self.cases,
            "sampled": self.sampled,
            "workers_are": "machines like this one" if self.alike else "processes on this machine",
            "seconds": round(self.wall_s, 3),
            "seconds_range": [round(end, 3) for end in self.wall_range_s],
            "hours": round(self.wall_s / 3600, 4),
            "tail_seconds": round(self.tail_s, 3),
            "tail_seconds_range": [round(end, 3) for end in self.tail_range_s],
            "utilisation": round(self.utilisation, 4),
            "worker_hours": round(self.worker_hours, 4),
        }
        if self.price:
            cost = [self.workers * end / 3600 * self.price.an_hour for end in self.wall_range_s]
            said |= {
                "price": self.price.an_hour,
                "unit": self.price.unit,
                "cost": round(self.worker_hours * self.price.an_hour, 4),
                "cost_range": [round(end, 4) for end in cost],
            }
        return said

    def text(self) -> str:
        one = self.workers == 1
        where = "a machine like this one" if self.alike else "on this machine"
        where = f"each {where}" if self.alike and not one else where
        low, high = (lasting(end) for end in self.wall_range_s)
        was = "was" if self.sampled == 1 else "were"
        cases = f"{self.cases} case{'s' * (self.cases != 1)}"
        lines = [
            f"{cases}, {self.workers} worker{'s' * (not one)} ({where}): {lasting(self.wall_s)} "
            f"({low} to {high}), by {self.sampled} of them that {was} done for it",
            f"the last worker goes on for {lasting(self.tail_s)} after the first has nothing to do; "
            f"{100 * self.utilisation:.0f} % of their time is work",
        ]
        hours = f"{self.worker_hours:,.2f} worker hours"
        if self.price:
            low, high = (
                self.price.said(self.workers * end / 3600 * self.price.an_hour) for end in self.wall_range_s
            )
            cost = self.price.said(self.worker_hours * self.price.an_hour)
            hours += f", {cost} ({low} to {high}) at {self.price.said(self.price.an_hour)} an hour"
        return "\n".join([*lines, hours])


def forecast(
    features: Mapping[str, Sequence[float]],
    sample: Sample,
    workers: int,
    *,
    order: Sequence[str],
    before_s: float = 0.0,
    alike: bool = False,
    price: Price | None = None,
    seed: int = 0,
) -> Forecast:
    """Of all cases in `features`, which say how large each is, taken in `order`.

    A case keeps a worker busy for a + b·size + …, of which none is negative; what is left over is drawn from
    the sample. before_s: until workers are started. It is done many times, each with a fit to the sample
    drawn anew: the numbers are the medians, the ranges from the 5th to the 95th percentile.
    """
    names = [name for name in order if name in features]
    sizes = np.array([features[name] for name in names], float).reshape(len(names), -1)
    known, turns, firsts = _turns(features, sample)
    chance = np.random.default_rng(seed)

    def once(picked: npt.NDArray[np.intp]) -> Timetable:
        fit = _fit(known[picked], turns[picked])
        ratios = turns[picked] / np.maximum(fit(known[picked]), 1e-6)
        seconds = fit(sizes) * chance.choice(ratios, len(sizes))
        loads = [max(0.0, took - fit(np.array([features[name]], float))[0]) for name, took in firsts.items()]
        load = fmean(loads) if loads else 0.0
        return dispatch(seconds.tolist(), workers, begins_s=[load] * workers)

    draws = [once(chance.integers(0, len(turns), len(turns))) for _ in range(_draws(len(names)))]
    walls, tails = ([*ends] for ends in zip(*((made.wall_s, made.tail_s) for made in draws)))
    return Forecast(
        workers,
        len(names),
        len(turns) + len(firsts),
        alike,
        before_s + median(walls),
        _range([before_s + wall for wall in walls]),
        median(tails),
        _range(tails),
        median(made.utilisation for made in draws),
        price,
    )


def _turns(
    features: Mapping[str, Sequence[float]], sample: Sample
) -> tuple[Floats, Floats, Mapping[str, float]]:
    """Sizes and seconds to fit, and the first cases of workers; these alone where there is nothing else."""
    if not sample.turns and not sample.firsts:
        raise MedfuseError(
            "none of the cases that were tried could be done, so nothing is known of the others"
        )
    if sample.turns:
        known = np.array([features[name] for name in sample.names], float)
        return known, np.array(sample.turns), sample.firsts
    return (
        np.array([features[name] for name in sample.firsts], float),
        np.array([*sample.firsts.values()]),
        {},
    )


def _fit(known: Floats, seconds: Floats) -> Callable[[Floats], Floats]:
    """Seconds by size, by non-negative least squares; where few cases are known by the first size alone."""
    from scipy.optimize import nnls

    count = known.shape[1] if len(known) >= _LEAST_TURNS else min(1, known.shape[1])
    scale = np.maximum(known[:, :count].max(axis=0), 1e-9)

    def design(sizes: Floats) -> Floats:
        return np.hstack([np.ones((len(sizes), 1)), sizes[:, :count] / scale])

    weights = 1 / np.maximum(seconds, 1e-3) ** 0.5
    factors, _ = nnls(design(known) * weights[:, None], seconds * weights)
    return lambda sizes: np.asarray(design(sizes) @ factors, float)


def _draws(cases: int) -> int:
    return _DRAWS if cases <= 20_000 else _DRAWS // 4


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(values, _ENDS)
    return float(low), float(high)
