"""How good a calibration is, on cases that neither trained a network nor had a part in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medfuse.quality.calibration import JudgedCase, calibrated
from medfuse.quality.curve import Interval, compared, risks
from medfuse.quality.scores import BY_NAME

Numbers = npt.NDArray[np.float64]

BASELINES = ("entropy", "volume")
"""The simplest scores, each alone: what else there is to order cases by."""
OURS = "expected"


@dataclass(frozen=True)
class Honesty:
    """Of one class. `areas`: under risk and coverage, of what is expected and of each baseline; `ahead`: by
    how much that of the first is below each of the others (see `curve`). `covered`: the share of `bounded`
    cases that were at their bound or above it. `curve`: the risks themselves, by order."""

    cases: int
    areas: dict[str, Interval]
    ahead: dict[str, Interval]
    bounded: int
    covered: float | None
    curve: dict[str, Numbers]


def judged(cases: Sequence[JudgedCase]) -> Honesty | None:
    """What cases of other parts say of each, held against what it had. None where that cannot be told."""
    expected, lower = _by_others(cases)
    known = np.isfinite(expected)
    if known.sum() < 2:
        return None
    own = [case for case, is_known in zip(cases, known) if is_known]
    return told(own, expected[known], lower[known])


def told(cases: Sequence[JudgedCase], expected: Numbers, lower: Numbers) -> Honesty:
    """The same of what was said of each case: `lower` is NaN where there is no bound."""
    dice = np.array([case.dice for case in cases])
    orders = {OURS: expected, **{name: _trust(name, cases) for name in BASELINES}}
    areas, ahead = compared(orders, dice, [case.group for case in cases])
    bounded = np.isfinite(lower)
    return Honesty(
        len(cases),
        areas,
        ahead,
        int(bounded.sum()),
        float((dice >= lower)[bounded].mean()) if bounded.any() else None,
        {name: risks(order, dice) for name, order in orders.items()},
    )


def _by_others(cases: Sequence[JudgedCase]) -> tuple[Numbers, Numbers]:
    """What calibrations of all other parts say of each case: expected, and its bound, NaN where none is."""
    expected, lower = np.full(len(cases), np.nan), np.full(len(cases), np.nan)
    for part in sorted({case.part for case in cases}):
        own = [n for n, case in enumerate(cases) if case.part == part]
        groups = {cases[n].group for n in own}
        made = calibrated([case for case in cases if case.part != part and case.group not in groups])
        if made is None:
            continue
        rows = [cases[n].scores for n in own]
        expected[own] = made.expected(rows)
        if (bounds := made.lower(rows)) is not None:
            lower[own] = bounds
    return expected, lower


def _trust(name: str, cases: Sequence[JudgedCase]) -> Numbers:
    """A score alone, the higher the better; what has none is trusted least."""
    values = [case.scores.get(name) for case in cases]
    return np.array([-np.inf if v is None else -BY_NAME[name].badness(v) for v in values])
