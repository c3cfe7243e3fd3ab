"""How much of the gap between a large and a small model is closed by learning from the large one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medfuse.report.candidates import MEAN, Candidate, tables
from medfuse.report.resampling import Floats, Spread, parts

_FARTHEST = 1e4
"""A share whose limit is further away than this has none."""


@dataclass(frozen=True)
class Gap:
    """Dice of the large model minus that of the small one alone, and the share of it that is closed.

    95 % limits over `patients`. Where the gap may be 0 (`is_told` is False), a share of it means nothing, and
    there is none. A limit of a share is None where it lies nowhere.
    """

    label: str
    patients: int
    gap: float
    low: float
    high: float
    gain: float
    share: float | None = None
    share_low: float | None = None
    share_high: float | None = None

    @property
    def is_told(self) -> bool:
        return self.low > 0

    def text(self, large: str, alone: str) -> str:
        """The share, its limits and the gap that it is of; or why there is none. `large`, `alone`: names."""
        gap = f"{self.gap:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"
        who = f"{self.patients} patient{'s' * (self.patients != 1)}"
        between = f"{large} minus {alone} (95 %, {who}): {gap}"
        if self.share is None:
            why = "is worse" if self.high < 0 else "is not distinguishable from 0"
            said = "the larger model" if self.high < 0 else "the gap"
            return f"{between}; {said} {why}, so that no share of it can be told"
        limits = f"[{_percent(self.share_low)}, {_percent(self.share_high)}]"
        return f"share of the gap that is closed: {_percent(self.share)} {limits}; {between}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "is_told": self.is_told}


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def gap_closed(large: Candidate, alone: Candidate, distilled: Candidate, label: str = MEAN) -> Gap | None:
    """Of the cases that all three have been judged on; None where there are none.

    The share's limits are where the gain minus share × gap could still be 0, by the interval that differences
    have everywhere here (Fieller 1954): so the share is above 0 exactly where the gain is, and bounded, as
    the gap is not 0.
    """
    found = tables([large, alone, distilled], label)
    if not found:
        return None
    big, small, taught = (table.mean(axis=2) for table in found)  # (1, patients)
    gaps, gains = big - small, taught - small
    patients = gaps.shape[1]
    gap, gain = float(gaps.mean()), float(gains.mean())
    if patients < 2:
        return Gap(label, patients, gap, -1.0, 1.0, gain)
    low, high = _limits(gaps)
    if low <= 0:
        return Gap(label, patients, gap, low, high, gain)
    share = gain / gap
    ends = [
        _edge(share, -1.0, lambda theta: _limits(gains - theta * gaps)[0] <= 0),
        _edge(share, 1.0, lambda theta: _limits(gains - theta * gaps)[1] >= 0),
    ]
    return Gap(label, patients, gap, low, high, gain, share, *ends)


def _limits(rows: Floats) -> tuple[float, float]:
    rows = np.round(rows, 12)
    (low,), (high,) = Spread(parts(rows[:, :, None])).limits()
    mean = float(rows.mean())
    return min(float(low), mean), max(float(high), mean)


def _edge(start: float, direction: float, holds: Callable[[float], bool]) -> float | None:
    """The furthest value from `start` at which it still holds; None beyond all bounds."""
    step = 0.05
    while holds(start + direction * step):
        step *= 2
        if step > _FARTHEST:
            return None
    near, far = (0.0, step) if step == 0.05 else (step / 2, step)
    while far - near > 1e-4 * max(1.0, far):
        middle = (near + far) / 2
        near, far = (middle, far) if holds(start + direction * middle) else (near, middle)
    found = start + direction * near
    return found if math.isfinite(found) else None
