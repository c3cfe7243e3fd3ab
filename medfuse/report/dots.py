"""A dot for each case on a line, with the mean and its interval, as HTML that fits any width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Dot:
    """A case: its value, what is said where one points at it, and the place in the page that it leads to."""

    value: float
    words: str
    place: str = ""


@dataclass(frozen=True)
class Row:
    """A line of dots; `words` are below its name. `low` and `high` bound the mean; pale: it may be chance."""

    name: str
    words: str
    dots: Sequence[Dot]
    color: str = ""
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    pale: bool = False


MOST_LINES = 12
"""Those that are seen at once; of more the others are a click away."""


def folded_dots(
    rows: Sequence[Row], limits: tuple[float, float], ticks: Sequence[float], others: str, digits: int = 2
) -> str:
    """`dots_html`, the first of many rows above the others, which are called `others`."""
    seen = dots_html(rows[:MOST_LINES], limits, ticks, digits)
    more = dots_html(rows[MOST_LINES:], limits, ticks, digits)
    summary = f"{len(rows) - MOST_LINES} {escape(others)}"
    return seen + (f"<details><summary>{summary}</summary>{more}</details>" if more else "")


def dots_html(
    rows: Sequence[Row], limits: tuple[float, float], ticks: Sequence[float], digits: int = 2
) -> str:
    """The rows over one axis; nothing where no row has a dot. A tick at 0 is a line through all rows."""
    if not any(row.dots for row in rows):
        return ""
    low, high = limits

    def at(value: float) -> str:
        return f"{100 * min(1.0, max(0.0, (value - low) / (high - low))):.2f}%"

    made = []
    for row in rows:
        color = f' style="--dot:{escape(row.color)}"' if row.color else ""
        marks = f'<i class="zero" style="left:{at(0)}"></i>' if low < 0 < high else ""
        marks += "".join(_dot(dot, at(dot.value), n) for n, dot in enumerate(row.dots))
        pale = " pale" if row.pale else ""
        if row.low is not None and row.high is not None:
            width = max(0.0, min(row.high, high) - max(row.low, low)) / (high - low)
            marks += f'<i class="span{pale}" style="left:{at(row.low)};width:{100 * width:.2f}%"></i>'
        if row.mean is not None:
            marks += f'<i class="mean{pale}" style="left:{at(row.mean)}"></i>'
        made.append(
            f'<div class="name">{escape(row.name)}<small>{escape(row.words)}</small></div>'
            f'<div class="track"{color}>{marks}</div>'
        )
    axis = "".join(f'<span style="left:{at(tick)}">{_tick(tick, digits, low < 0)}</span>' for tick in ticks)
    return f'<div class="dots">{"".join(made)}<div class="blank"></div><div class="axis">{axis}</div></div>'


def _dot(dot: Dot, left: str, number: int) -> str:
    """Dots of one value lie beside each other, not over each other."""
    top = (50, 30, 70, 40, 60, 20, 80)[number % 7]
    words = escape(dot.words)
    place = f'class="dot" style="left:{left};top:{top}%" title="{words}"'
    if dot.place:
        return f'<a href="#{escape(dot.place)}" {place} aria-label="{words}"></a>'
    return f"<span {place}></span>"


def _tick(value: float, digits: int, signed: bool) -> str:
    return f"{value:{'+' if signed and value else ''}.{digits}f}"
