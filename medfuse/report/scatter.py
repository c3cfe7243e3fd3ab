"""Points over two axes, what no other beats in both joined by a line, as SVG inside a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDE, _HIGH = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 16, 46


@dataclass(frozen=True)
class Point:
    """`x` is a cost, and `y` what is had for it. `words`: where one points at it; `name`: beside it."""

    x: float
    y: float
    words: str
    name: str = ""


@dataclass(frozen=True)
class Axis:
    """What an axis says below, or beside, it, and how a number on it is written."""

    name: str
    text: Callable[[float], str] = "{:g}".format


def scatter_svg(points: Sequence[Point], x: Axis, y: Axis, name: str) -> str:
    """The points, and the line of those that cost least for what they give; nothing where there is none.

    `name` tells it from other pictures of its page. Its title and description say in words what it shows.
    """
    if not points:
        return ""
    best = cheapest(points)
    xs, ys = _limits([p.x for p in points], least=0.0), _limits([p.y for p in points])
    place = _Place(xs, ys)
    title = f"{y.name} against {x.name}, {len(points)} trial{'s'[: len(points) != 1]}"
    first, last = points[best[0]], points[best[-1]]
    ends = f"from {first.words} to {last.words}" if len(best) > 1 else f"it is one: {first.words}"
    desc = f"{len(best)} of them no other beats in both; {ends}. The table below has all numbers."
    return (
        f'<svg class="scatter" viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(desc)}</desc>'
        f"{_grid(place, x, y)}{_line([points[n] for n in best], place)}"
        f"{''.join(_dot(p, place, n in best) for n, p in enumerate(points))}</svg>"
    )


def cheapest(points: Sequence[Point]) -> list[int]:
    """Those that no other beats in both, from the cheapest on."""
    made: list[int] = []
    for n in sorted(range(len(points)), key=lambda n: (points[n].x, -points[n].y)):
        if not made or points[n].y > points[made[-1]].y:
            made.append(n)
    return made


@dataclass(frozen=True)
class _Place:
    """Where numbers are in the picture."""

    xs: Sequence[float]
    ys: Sequence[float]

    def x(self, value: float) -> float:
        return _LEFT + (_WIDE - _LEFT - _RIGHT) * (value - self.xs[0]) / (self.xs[-1] - self.xs[0])

    def y(self, value: float) -> float:
        return _TOP + (_HIGH - _TOP - _BOTTOM) * (self.ys[-1] - value) / (self.ys[-1] - self.ys[0])


def _limits(values: Sequence[float], least: float = -math.inf, ticks: int = 5) -> list[float]:
    """Round numbers that hold all values between them: ticks of an axis."""
    low, high = min(values), max(values)
    span = high - low or abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(span / ticks))
    step = next(size * n for n in (1, 2, 5, 10, 20) if span / (size * n) <= ticks)
    first = math.floor((low - 0.05 * span) / step)
    last = math.ceil((high + 0.05 * span) / step)
    return [
        n * step for n in range(max(first, math.ceil(least / step) if least > -math.inf else first), last + 1)
    ]


def _grid(place: _Place, x: Axis, y: Axis) -> str:
    right, bottom = _WIDE - _RIGHT, _HIGH - _BOTTOM
    lines = [f'<path class="rule" d="M{_LEFT} {place.y(tick):.1f}H{right}"/>' for tick in place.ys]
    lines += [
        f'<text x="{_LEFT - 8}" y="{place.y(tick) + 4:.1f}" text-anchor="end">{escape(y.text(tick))}</text>'
        for tick in place.ys
    ]
    lines += [
        f'<text x="{place.x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{escape(x.text(tick))}</text>'
        for tick in place.xs
    ]
    middle, high = (_LEFT + right) / 2, (_TOP + bottom) / 2
    lines.append(f'<text x="{middle:.0f}" y="{_HIGH - 8}" text-anchor="middle">{escape(x.name)}</text>')
    turn = f'transform="rotate(-90 14 {high:.0f})" x="14" y="{high:.0f}"'
    return "".join(lines) + f'<text {turn} text-anchor="middle">{escape(y.name)}</text>'


def _line(points: Sequence[Point], place: _Place) -> str:
    """As stairs: at a cost, the most that can be had for it."""
    path = f"M{place.x(points[0].x):.1f} {place.y(points[0].y):.1f}"
    path += "".join(f"H{place.x(p.x):.1f}V{place.y(p.y):.1f}" for p in points[1:])
    return f'<path class="front" d="{path}"/>'


def _dot(point: Point, place: _Place, is_best: bool) -> str:
    x, y = place.x(point.x), place.y(point.y)
    kind = "best" if is_best else "other"
    end = x > _WIDE - 140
    side = f'x="{x - 9 if end else x + 9:.1f}" y="{y - 7:.1f}" text-anchor="{"end" if end else "start"}"'
    beside = f"<text {side}>{escape(point.name)}</text>" if point.name else ""
    circle = f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5">'
    return f"{circle}<title>{escape(point.words)}</title></circle>{beside}"
