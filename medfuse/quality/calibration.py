"""What the scores of judged cases foretell of others: expected Dice and a lower bound, class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medfuse.quality.conformal import FEWEST, LEVEL, bound, conformal_quantile, parts_of, shortfalls
from medfuse.quality.fit import Fit, Known

Numbers = npt.NDArray[np.float64]

_FEWEST_TO_FIT = 5
_SELDOM = 5.0  # percent of judged cases that had less


@dataclass(frozen=True)
class JudgedCase:
    """A case of one class that no network saw in training: its scores, those of the case among them.

    `group`: whose it is; `part`: what was held out together with it, such as its fold.
    """

    name: str
    scores: Known
    dice: float
    group: str
    part: str = ""


@dataclass(frozen=True)
class ClassCalibration:
    """Of one class. `quantile`: of shortfalls (see `conformal`), None where the cases are too few for it.

    `low`: the Dice that few of the judged cases were below. `present`: in how many of all judged cases the
    networks found the class.
    """

    fit: Fit
    quantile: float | None
    cases: int
    groups: int
    low: float

    def expected(self, rows: Sequence[Known]) -> Numbers:
        return self.fit.expected(rows)

    def lower(self, rows: Sequence[Known]) -> Numbers | None:
        """At or above it is the Dice of LEVEL of such cases; None where there is no bound."""
        return None if self.quantile is None else bound(self.expected(rows), self.quantile)


def calibrated(cases: Sequence[JudgedCase], level: float = LEVEL) -> ClassCalibration | None:
    """From cases of one class that networks found something of; None where they are too few for any fit.

    Each shortfall is from a fit that saw neither the case nor others of its group (cross-conformal, Vovk
    2015), so that the bound is not flattered by what it was made of.
    """
    if len(cases) < _FEWEST_TO_FIT:
        return None
    groups = [case.group for case in cases]
    dice = np.array([case.dice for case in cases])
    quantile = None
    if len({*groups}) >= FEWEST:
        quantile = conformal_quantile(shortfalls(held_out(cases), dice), level)
    return ClassCalibration(
        Fit.of([case.scores for case in cases], dice.tolist()),
        quantile,
        len(cases),
        len({*groups}),
        float(np.percentile(dice, _SELDOM)),
    )


def held_out(cases: Sequence[JudgedCase]) -> Numbers:
    """What is expected of each case by those of other groups."""
    parts = parts_of([case.group for case in cases])
    expected = np.zeros(len(cases))
    for part in np.unique(parts):
        others = [case for case, own in zip(cases, parts) if own != part]
        at = np.flatnonzero(parts == part).tolist()
        fit = Fit.of([case.scores for case in others], [case.dice for case in others])
        expected[at] = fit.expected([cases[n].scores for n in at])
    return expected


def by_name(cases: Mapping[str, Sequence[JudgedCase]]) -> dict[str, ClassCalibration]:
    """Of each class that has enough cases."""
    made = {name: calibrated(own) for name, own in cases.items()}
    return {name: one for name, one in made.items() if one is not None}
