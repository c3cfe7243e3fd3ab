"""Training over time as a picture: losses, weights, learning rate, Dice, throughput."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medfuse.report.figures import GRID, INK, SOFT, colour, encode, literal, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

MOST_POINTS = 500
"""Longer curves are averaged down to this many points, so that a report stays small."""


@dataclass(frozen=True)
class Panel:
    """One small diagram: which keys of the rows it shows, and over what range."""

    title: str
    shows: Callable[[str], bool]
    limits: tuple[float, float] | None = None


PANELS = (
    Panel("loss", lambda key: key == "loss"),
    Panel("auxiliary losses", lambda key: key.startswith("loss/")),
    Panel("auxiliary weights", lambda key: key.startswith("weight/")),
    Panel("learning rate", lambda key: key == "learning_rate"),
    Panel("Dice on held-out cases", lambda key: key == "dice" or key.startswith("dice/"), limits=(0, 1)),
    Panel("steps per second", lambda key: key == "steps_per_second"),
    Panel("share of time spent waiting for data", lambda key: key == "wait_share", limits=(0, 1)),
)


def draw_curves(path: Path, rows: Sequence[Row]) -> None:
    """Write the picture to an .svg or .png file. Raises OutputError."""
    save(curves_figure(rows), path)


def curve_svgs(rows: Sequence[Row]) -> dict[str, bytes]:
    """A picture for each quantity that the rows hold, by its title."""
    pictures = {}
    for panel, keys in _panels(rows):
        figure = new_figure(5, 2.4)
        figure.set_layout_engine("constrained")
        _draw(figure.subplots(), panel, keys, rows)
        pictures[panel.title] = encode(figure, "svg")
    return pictures


def series(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of the rows that have a finite `key`, at most MOST_POINTS of them (bin means)."""
    found = [
        (float(r["step"]), float(r[key])) for r in rows if _finite(r.get(key)) and _finite(r.get("step"))
    ]
    if len(found) <= MOST_POINTS:
        return [step for step, _ in found], [value for _, value in found]
    bins = np.array_split(np.asarray(found), MOST_POINTS)
    means = [part.mean(axis=0) for part in bins]
    return [float(m[0]) for m in means], [float(m[1]) for m in means]


def curves_figure(rows: Sequence[Row]) -> Figure:
    """One panel per quantity that the rows hold, two in a row, over training steps."""
    panels = _panels(rows)
    lines = max(1, math.ceil(len(panels) / 2))
    figure = new_figure(10, 2.4 * lines)
    figure.set_layout_engine("constrained")
    grid = figure.subplots(lines, 2, squeeze=False)
    for axes, (panel, keys) in zip(grid.flat, panels):
        _draw(axes, panel, keys, rows)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    return figure


def _panels(rows: Sequence[Row]) -> list[tuple[Panel, list[str]]]:
    """The panels that have something to show, and their keys in the order they first appear."""
    keys = dict.fromkeys(key for row in rows for key, value in row.items() if _finite(value))
    shown = [(panel, [key for key in keys if panel.shows(key)]) for panel in PANELS]
    return [(panel, keys) for panel, keys in shown if keys]


def _draw(axes: Any, panel: Panel, keys: Sequence[str], rows: Sequence[Row]) -> None:
    from matplotlib.ticker import MaxNLocator

    for index, key in enumerate(keys):
        steps, values = series(rows, key)
        mean = key == "dice"
        axes.plot(
            steps,
            values,
            color=INK if mean else colour(index),
            linewidth=1.8 if mean else 1.2,
            linestyle="--" if index >= 7 and not mean else "-",
            marker="o" if len(steps) <= 25 else "",
            markersize=2.5,
            label=literal("mean" if mean else key.partition("/")[2] or key),
        )
    axes.set_title(panel.title, loc="left", fontsize=9, color=INK, fontweight="bold")
    axes.set_xlabel("step", fontsize=8, color=SOFT)
    axes.tick_params(labelsize=7.5, colors=SOFT, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    last = max((float(r["step"]) for r in rows if _finite(r.get("step"))), default=1)
    axes.set_xlim(0, 1.02 * max(last, 1))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.ticklabel_format(axis="y", useOffset=False)
    shown = {value for key in keys for value in series(rows, key)[1]}
    if len(shown) == 1:  # or matplotlib would show a millionth around it
        only = shown.pop()
        axes.set_ylim(sorted((0, 2 * only)) if only else (-1, 1))
    for side in axes.spines.values():
        side.set_visible(False)
    if panel.limits:
        axes.set_ylim(*panel.limits)
    if len(keys) > 1:
        # a fixed place: looking for the best one takes long with many rows, and matplotlib warns of it
        columns = 1 + len(keys) // 6
        axes.legend(loc="upper right", fontsize=7, frameon=False, ncols=columns, labelcolor=INK)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
