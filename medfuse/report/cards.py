"""The cases of a report as cards: pictures in three planes, Dice of each label, the way to the viewer."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from html import escape

from medfuse.core.errors import DataError
from medfuse.core.labels import LabelValue
from medfuse.core.text import number
from medfuse.report.evaluate import EvaluatedCase
from medfuse.report.metrics import CaseMetrics
from medfuse.report.overlays import OverlayCase, colors_of, foreground
from medfuse.report.thumbnails import Thumbnail, thumbnails

MOST_PICTURED, MOST_SECONDS = 120, 180.0
"""Cases with pictures, the worst, each of which takes some 50 kB of the page; and how long they are drawn."""
_MOST_NAMED = 6


def worst_first(cases: Sequence[EvaluatedCase]) -> list[EvaluatedCase]:
    """By mean foreground Dice; those without any come last."""
    return sorted(cases, key=lambda case: (case.dice is None, case.dice or 0.0, case.name))


def card_ids(cases: Sequence[EvaluatedCase]) -> dict[str, str]:
    """Case → the place of its card in the page."""
    return {case.name: f"case-{n}" for n, case in enumerate(worst_first(cases), start=1)}


def cards_html(
    cases: Sequence[EvaluatedCase],
    overlays: Mapping[str, OverlayCase],
    labels: Mapping[str, LabelValue],
    views: Mapping[str, str],
) -> tuple[str, int]:
    """Every case, worst first, and how many have pictures, at most: those in `overlays`, as long as there is
    time. Links lead to those in `views`.
    """
    ranked, places = worst_first(cases), card_ids(cases)
    colors = dict(zip((name for name, _ in foreground(labels)), _colors(overlays, labels)))
    made, pictured, end = [], 0, time.monotonic() + MOST_SECONDS
    for case in ranked:
        room = pictured < MOST_PICTURED and time.monotonic() < end
        files = overlays.get(case.name) if room else None
        pictured += files is not None
        made.append(_card(case, places[case.name], files, labels, colors, views.get(case.name, "")))
    return f'{_legend(colors)}<div class="cards">{"".join(made)}</div>', pictured


def _colors(overlays: Mapping[str, OverlayCase], labels: Mapping[str, LabelValue]) -> list[str]:
    given = next(iter(overlays.values())).colors if overlays else {}
    return colors_of(labels, given)


def _legend(colors: Mapping[str, str]) -> str:
    named = "".join(
        f'<span><span class="swatch" style="background:{escape(color)}"></span>{escape(name)}</span>'
        for name, color in [*colors.items()][: 3 * _MOST_NAMED]
    )
    more = len(colors) - 3 * _MOST_NAMED
    others = f"<span>and {more} more labels</span>" if more > 0 else ""
    return f'<div class="legend"><span>filled: prediction; line: reference</span>{named}{others}</div>'


def _card(
    case: EvaluatedCase,
    place: str,
    files: OverlayCase | None,
    labels: Mapping[str, LabelValue],
    colors: Mapping[str, str],
    view: str,
) -> str:
    scores = _scores(case.metrics)
    chips = "".join(
        f'<span><span class="swatch" style="background:{escape(colors.get(name, "#888"))}"></span>'
        f"{escape(name)} {number(m.dice, 3)}</span>"
        for name, m in scores[:_MOST_NAMED]
    )
    more = f"<span>and {len(scores) - _MOST_NAMED} better</span>" if len(scores) > _MOST_NAMED else ""
    link = f'<a class="open" href="{escape(view)}">Open in 3-D</a>' if view else ""
    return (
        f'<article class="card" id="{place}">{_planes(case, files, labels)}'
        f'<div class="top"><h3>{escape(case.name)}</h3>'
        f'<span class="score" title="mean foreground Dice">{number(case.dice, 3)}</span></div>'
        f"<p>{chips}{more}</p>{link}</article>"
    )


def _scores(metrics: Mapping[str, CaseMetrics]) -> list[tuple[str, CaseMetrics]]:
    """Labels that have a Dice; of many, those with the least."""
    found = [(name, m) for name, m in metrics.items() if m.dice is not None]
    return sorted(found, key=lambda one: one[1].dice or 0.0) if len(found) > _MOST_NAMED else found


def _planes(case: EvaluatedCase, files: OverlayCase | None, labels: Mapping[str, LabelValue]) -> str:
    if files is None:
        return ""
    try:
        pictures = thumbnails(files, labels)
    except DataError as error:
        return f'<ul class="error">{"".join(f"<li>{escape(line)}</li>" for line in error.lines)}</ul>'
    words = f"{case.name}: mean foreground Dice {number(case.dice, 3)}; {', '.join(p.name for p in pictures)}"
    return (
        f'<div class="planes" data-words="{escape(words)}">'
        f"{''.join(_plane(case.name, picture) for picture in pictures)}</div>"
    )


def _plane(name: str, picture: Thumbnail) -> str:
    width, height = picture.size_px
    source = f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode('ascii')}"
    alt = f"{name}, {picture.name} plane: image, prediction filled, reference as a line"
    letters = "".join(f"<i>{letter}</i>" for letter in picture.letters)
    return (
        f'<span style="flex:{picture.width_mm:.4g}"><img alt="{escape(alt)}" width="{width}" '
        f'height="{height}" src="{source}">{letters}</span>'
    )
