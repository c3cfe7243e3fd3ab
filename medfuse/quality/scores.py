"""What each score is: its range, which way is bad, and what it says, once for code, tables and documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import asinh, inf, log, log1p
from typing import Literal

Scores = dict[str, float | None]
"""Score → value; None where it has none, as of a class that is absent."""

DIGITS = 6


@dataclass(frozen=True)
class Score:
    """`low` to `high`: its range. `bad`: which values are worse. `least`: by how much, as
    `badness`, a value is another one at all. `alone`: whether one network has it, so that out of fold it is
    what it is at inference."""

    name: str
    low: float
    high: float
    bad: Literal["high", "low", "far", "no"]
    words: str
    least: float = 0.01
    alone: bool = True

    def badness(self, value: float) -> float:
        """Any value as a number that grows as it gets worse; long tails are drawn in."""
        if self.name == "components":
            return log(max(value, 1.0))
        if self.bad == "far":
            return asinh(abs(value))
        if self.high == inf:
            return log1p(max(value, 0.0))
        return value if self.bad == "high" else -value


SCORES = (
    Score("entropy", 0, 1, "high", "mean entropy on the surface, 1 where all classes are alike"),
    Score("margin", 0, 1, "low", "mean margin on the surface between the likeliest and the next class"),
    Score("components", 0, inf, "high", "pieces, that touch at no corner", 0.25),
    Score("largest", 0, 1, "low", "share of the voxels that the largest piece has"),
    Score("volume_ml", 0, inf, "no", "millilitres"),
    Score("volume", -inf, inf, "far", "deviations of log(ml) from the mean of training", 0.25),
    Score("border", 0, 1, "high", "share of the surface that is the edge of the field of view"),
    Score("swapped", 0, 1, "high", "1 where left and right are exchanged", 0.1),
    Score("folds", 0, 1, "low", "mean Dice of each two networks", alone=False),
    Score("flips", 0, 1, "low", "mean Dice of each two mirrored passes"),
    Score("heads", 0, 1, "low", "mean Dice of the main head and each auxiliary one"),
)
"""Of a class, of what the networks decide, before postprocessing, on their own grid."""

CASE_SCORES = (
    Score("spacing", 0, inf, "high", "distance of the spacing, 1 for the farthest case of training", 0.25),
    Score("field_of_view", 0, inf, "high", "the same of the field of view", 0.25),
    Score("intensities", 0, inf, "high", "the same of the intensities", 0.25),
    Score("grain", -inf, inf, "no", "log of how much voxels differ from those beside them"),
)
"""Of a case, from its header and its intensities."""

BY_NAME: Mapping[str, Score] = {score.name: score for score in (*SCORES, *CASE_SCORES)}


def rounded(scores: Mapping[str, float | None]) -> Scores:
    """As they are written."""
    return {name: None if value is None else round(value, DIGITS) for name, value in scores.items()}
