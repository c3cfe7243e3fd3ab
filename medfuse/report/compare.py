"""Whether one model is better than another: paired differences, their uncertainty, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from medfuse.core.text import aligned, number
from medfuse.report.figures import GRID, INK, SOFT, colour, encode, literal, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEAN = "mean foreground"
"""The name under which the mean over the labels of a case is compared."""

Verdict = Literal["better", "worse", "no significant difference"]

_RESAMPLES = 10_000
_LEVEL = 0.05
_FEWEST = 6  # pairs: with fewer, no signed-rank test can reach p < 0.05


@dataclass(frozen=True)
class Candidate:
    """One model as it was trained, perhaps several times.

    `dice[label][case]` holds one value per training (seed); undefined values are left out. The cost is one
    training's mean: `seconds` of training, `gflops` of one patch, `parameters`.
    """

    name: str
    dice: Mapping[str, Mapping[str, Sequence[float]]]
    trainings: int
    parameters: int | None = None
    gflops: float | None = None
    seconds: float | None = None
    steps: float | None = None

    def mean(self, label: str) -> float | None:
        """Over cases, each of which is the mean over its trainings."""
        values = [math.fsum(v) / len(v) for v in self.dice[label].values() if v]
        return math.fsum(values) / len(values) if values else None


@dataclass(frozen=True)
class Difference:
    """A candidate's Dice minus the baseline's on the cases that both have, over `pairs` cases.

    `low` and `high` bound the mean difference (95 %, bootstrap over cases). `p` is Wilcoxon's signed-rank
    test, two-sided; `p_corrected` is Holm's for all tests of the comparison. Trainings are averaged first, so
    the interval tells of other cases, not of other seeds.
    """

    candidate: str
    label: str
    pairs: int
    difference: float
    low: float
    high: float
    p: float
    p_corrected: float

    @property
    def verdict(self) -> Verdict:
        if not (self.p_corrected < _LEVEL and (self.low > 0 or self.high < 0)):
            return "no significant difference"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """Candidates, the first of which is the baseline, and every other's differences to it."""

    candidates: tuple[Candidate, ...]
    labels: tuple[str, ...]
    differences: tuple[Difference, ...]

    def of(self, candidate: str, label: str) -> Difference:
        return next(d for d in self.differences if (d.candidate, d.label) == (candidate, label))

    def to_json(self) -> dict[str, Any]:
        return {
            "baseline": self.candidates[0].name,
            "labels": list(self.labels),
            "candidates": [
                {**asdict(c), "mean": {label: c.mean(label) for label in self.labels}}
                for c in self.candidates
            ],
            "differences": [{**asdict(d), "verdict": d.verdict} for d in self.differences],
        }


def compare(candidates: Sequence[Candidate]) -> Comparison:
    """Every candidate against the first, per label and on the mean foreground.

    Raises ValueError where a pair of candidates has no case in common.
    """
    labels = tuple(candidates[0].dice)
    rows = [(c, label, *_differences(candidates[0], c, label)) for c in candidates[1:] for label in labels]
    corrected = holm([p for *_, p in rows])
    differences = tuple(
        Difference(c.name, label, len(values), float(values.mean()), *interval(values), p, q)
        for (c, label, values, p), q in zip(rows, corrected)
    )
    return Comparison(tuple(candidates), labels, differences)


def _differences(baseline: Candidate, other: Candidate, label: str) -> tuple[npt.NDArray[np.float64], float]:
    """Per case, and the p of their signed ranks."""
    ours, theirs = baseline.dice[label], other.dice[label]
    cases = [case for case in ours if ours[case] and theirs.get(case)]
    if not cases:
        raise ValueError(f"{baseline.name} and {other.name} have no case with {label} in common")
    values = np.array([np.mean(theirs[case]) - np.mean(ours[case]) for case in cases])
    return values, signed_rank(values)


def signed_rank(values: npt.NDArray[np.float64]) -> float:
    """Wilcoxon's two-sided p (1945). 1 where nothing differs, or where there are too few pairs to tell."""
    from scipy.stats import wilcoxon

    if len(values) < _FEWEST or not values.any():
        return 1.0
    return float(wilcoxon(values).pvalue)


def interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of means over resampled cases (Efron 1979), always the same ones."""
    random = np.random.default_rng(0)
    means = values[random.integers(len(values), size=(_RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def holm(p: Sequence[float]) -> list[float]:
    """Corrected for the number of tests (Holm 1979): the chance of any false alarm stays at the level."""
    corrected, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = largest
    return corrected


# ------------------------------------------------------------------------------------------- to read


def table(comparison: Comparison) -> str:
    """Means and costs, then differences, as aligned text."""
    return "\n\n".join(aligned(rows) for rows in (_means(comparison), _verdicts(comparison)) if len(rows) > 1)


def _means(comparison: Comparison) -> list[list[str]]:
    rows = [["model", *comparison.labels, "trainings", "parameters", "GFLOP/patch", "steps", "minutes"]]
    for c in comparison.candidates:
        dice = [number(c.mean(label), 4) for label in comparison.labels]
        parameters = "–" if c.parameters is None else f"{c.parameters:,}"
        minutes = None if c.seconds is None else c.seconds / 60
        cost = [parameters, number(c.gflops, 2), number(c.steps, 0), number(minutes, 1)]
        rows.append([c.name, *dice, str(c.trainings), *cost])
    return rows


def _verdicts(comparison: Comparison) -> list[list[str]]:
    baseline = comparison.candidates[0].name
    rows = [[f"against {baseline}", "label", "difference", "95 % interval", "cases", "p (Holm)", "verdict"]]
    for d in comparison.differences:
        bounds = f"{d.low:+.4f} … {d.high:+.4f}"
        rows.append(
            [
                d.candidate,
                d.label,
                f"{d.difference:+.4f}",
                bounds,
                str(d.pairs),
                f"{d.p_corrected:.3g}",
                d.verdict,
            ]
        )
    return rows


def picture(comparison: Comparison) -> Figure:
    """Differences with their intervals, one row each; what is not significant is pale."""
    rows = comparison.differences
    figure = new_figure(7.5, 1.1 + 0.32 * len(rows))
    axes = figure.subplots()
    labels = list(comparison.labels)
    for place, d in enumerate(reversed(rows)):
        shade = colour(labels.index(d.label))
        alpha = 0.35 if d.verdict == "no significant difference" else 1.0
        axes.plot([d.low, d.high], [place, place], color=shade, alpha=alpha, linewidth=2.5)
        axes.plot([d.difference], [place], "o", color=shade, alpha=alpha)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(
        range(len(rows)), [literal(f"{d.candidate}, {d.label}") for d in reversed(rows)], fontsize=8
    )
    axes.set_xlabel(literal(f"Dice minus that of {comparison.candidates[0].name}"), color=SOFT, fontsize=8)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    return figure


def page(comparison: Comparison, notes: Sequence[str] = ()) -> str:
    """A self-contained HTML page: tables, picture, and how to read them."""
    parts = [_html(_means(comparison))]
    if comparison.differences:
        svg = encode(picture(comparison), "svg").decode()
        parts += [svg[svg.index("<svg") :], _html(_verdicts(comparison))]
    parts += [f"<p>{escape(line)}</p>" for line in (*READING, *notes)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>medfuse: comparison</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>Comparison</h1>\n{''.join(parts)}\n</body></html>\n"
    )


READING = (
    "Dice per case is averaged over trainings first, then compared case by case with the first model's.",
    "Interval: 95 % of the mean difference over resampled cases; it tells of other cases, not seeds.",
    "Verdict: only where Wilcoxon's signed-rank test, corrected for all tests here (Holm), has p < 0.05 "
    "and the interval leaves out 0. Everything else is no significant difference, whichever mean is higher.",
)

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#1f2933;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .7rem;border-bottom:1px solid #e4e7eb;"
    "text-align:left;font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto}"
)


def _html(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    return f"<table><tr>{''.join(_cells(head, 'th'))}</tr>{''.join(map(_row, body))}</table>"


def _row(cells: Sequence[str]) -> str:
    return f"<tr>{''.join(_cells(cells, 'td'))}</tr>"


def _cells(cells: Sequence[str], tag: str) -> Iterator[str]:
    return (f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)
