"""comparison.html: how models differ, a dot for each case, and how to read it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from medfuse.core.text import listed, number
from medfuse.report.candidates import MEAN, Candidate
from medfuse.report.compare import Comparison, Difference, by_case
from medfuse.report.comparison_text import READING, means_rows, notes, rank_rows, verdict_rows, words
from medfuse.report.dots import MOST_LINES, Dot, Row, dots_html, folded_dots
from medfuse.report.figures import colour
from medfuse.report.style import document, section

_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def page(comparison: Comparison, sources: Sequence[str] = ()) -> str:
    """A page that loads nothing from elsewhere; all text in it is escaped."""
    baseline, *others = comparison.candidates
    names = listed([candidate.name for candidate in others], 4)
    header = f"<h1>{escape(names)} against {escape(baseline.name)}</h1><p>comparison of models</p>"
    parts = [
        section("Result", _result(comparison)),
        section("What each case changes", _differences(comparison)),
        section("Dice of every case", _dice(comparison)),
        section("Ranks", _table(ranks) if len(ranks := rank_rows(comparison)) > 1 else ""),
        section("Means and costs", _table(means_rows(comparison))),
        section("Tests", _table(verdict_rows(comparison), words=True) if comparison.differences else ""),
        section("How to read it", "".join(f"<p>{escape(line)}</p>" for line in (*READING, *sources))),
    ]
    return document("medfuse: comparison", header, "".join(parts))


def _result(comparison: Comparison) -> str:
    """A line for each model: the mean foreground Dice, its difference, and what that means."""
    baseline, lines = comparison.candidates[0], []
    for candidate in comparison.candidates[1:]:
        if (found := _found(comparison, candidate, MEAN)) is None:
            continue
        about = (
            f"{candidate.name}: mean foreground Dice {number(candidate.mean(MEAN))}, "
            f"that of {baseline.name} {number(baseline.mean(MEAN))}; "
            f"95 % interval {found.low:+.4f} … {found.high:+.4f}, {found.pairs} cases: "
        )
        lines.append(
            f'<p class="big {_tone(found)}">{found.difference:+.4f} '
            f"<span>{escape(about)}<b>{escape(words(found))}</b></span></p>"
        )
    return "".join(lines) + "".join(f'<p class="said">{escape(line)}</p>' for line in notes(comparison))


def _found(comparison: Comparison, candidate: Candidate, label: str) -> Difference | None:
    wanted = (candidate.name, label)
    return next((d for d in comparison.differences if (d.candidate, d.label) == wanted), None)


def _tone(found: Difference) -> str:
    return found.verdict if found.verdict in ("better", "worse") else "open"


def _differences(comparison: Comparison) -> str:
    """For each model and label: a dot for each case, the mean and its interval, around 0."""
    baseline, rows = comparison.candidates[0], []
    for candidate in comparison.candidates[1:]:
        for n, label in enumerate(comparison.labels):
            if (found := _found(comparison, candidate, label)) is None:
                continue
            dots = [
                Dot(value, f"{case}: {value:+.4f}")
                for case, value in sorted(by_case(baseline, candidate, label).items())
            ]
            name = label if len(comparison.candidates) == 2 else f"{candidate.name}, {label}"
            about = f"{found.difference:+.3f}, {found.verdict}"
            pale = found.verdict == "undecided"
            rows.append(Row(name, about, dots, colour(n), found.difference, found.low, found.high, pale))
    most = max(
        (abs(v) for r in rows for v in (*(d.value for d in r.dots), r.low or 0, r.high or 0)), default=0
    )
    end = next((step for step in _STEPS if step >= most), 1.0)
    about = (
        f"Dice minus that of {baseline.name}: a dot for each case, the mean, and the interval of the mean. "
        "What is right of the line is better. Of the mean foreground, a dot is what a case adds to the mean."
    )
    ticks = (-end, -end / 2, 0, end / 2, end)
    digits = 3 if end < 0.1 else 2
    lines = folded_dots(rows, (-end, end), ticks, "more", digits)
    return f'<p class="said">{escape(about)}</p>{lines}' if lines else ""


def _dice(comparison: Comparison) -> str:
    """For each label: the Dice of each case, a line for each model."""
    parts = [_dice_of(comparison.candidates, label) for label in comparison.labels if label != MEAN]
    parts = [part for part in parts if part]
    few = MOST_LINES // max(2, len(comparison.candidates))
    return "".join(parts[:few]) + _folded("".join(parts[few:]), len(parts) - few)


def _dice_of(candidates: Sequence[Candidate], label: str) -> str:
    rows = []
    for n, candidate in enumerate(candidates):
        dice = {case: sum(values) / len(values) for case, values in candidate.dice[label].items() if values}
        dots = [Dot(value, f"{case}: {value:.4f}") for case, value in sorted(dice.items())]
        interval = candidate.interval(label)
        low, high = (None, None) if interval is None else (interval.low, interval.high)
        about = f"Dice {number(candidate.mean(label), 3)}, n {len(dots)}"
        rows.append(Row(candidate.name, about, dots, colour(n), candidate.mean(label), low, high))
    lines = dots_html(rows, (0.0, 1.0), (0, 0.25, 0.5, 0.75, 1))
    return f"<h3>{escape(label)}</h3>{lines}" if lines else ""


def _folded(html: str, count: int) -> str:
    return f"<details><summary>{count} more</summary>{html}</details>" if html else ""


def _table(rows: Sequence[Sequence[str]], *, words: bool = False) -> str:
    """Rows of cells, the first of which are heads; on narrow screens each row is a card."""
    heads, *body = rows
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heads)
    made = []
    for first, *cells in body:
        named = zip(heads[1:], cells)
        told = "".join(f'<td data-head="{escape(name)}">{_verdict(cell)}</td>' for name, cell in named)
        made.append(f'<tr><th scope="row">{escape(first)}</th>{told}</tr>')
    kind = ' class="words"' if words else ""
    table = f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{''.join(made)}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _verdict(cell: str) -> str:
    return f'<b class="{cell}">{cell}</b>' if cell in ("better", "worse") else escape(cell)
