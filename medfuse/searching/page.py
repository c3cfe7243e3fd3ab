"""search.html: what was tried, what it cost, what mattered, and whether anything is better than the file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from medfuse.core.memory import bytes_text
from medfuse.core.text import duration, number
from medfuse.report import dots
from medfuse.report.dots import Dot, dots_html
from medfuse.report.figures import colour
from medfuse.report.scatter import Axis, Point, scatter_svg
from medfuse.report.style import document, section
from medfuse.searching.result import Found, Row

READING = (
    "Trials learn from some of the training cases and are judged by the others; a patient is on one side. "
    "The held-out cases of the pipeline's split judge the last trainings alone, so that nothing was chosen "
    "by them.",
    "The best of many trials looks better than it is: part of its lead is luck. Optimism is by how much more "
    "the chosen trial lost on unseen cases than the file as written, which nobody chose.",
    "The front holds the trials that no other is better than in every objective.",
    "Share of variance: how much of what trials differ by at the first rung goes with a key's value (ε²); "
    "the interval is that of trials drawn anew, and one that reaches 0 may be nothing.",
    "A winner is only what the comparison finds better on unseen cases; everything else is no winner, "
    "whichever mean is higher.",
)


def page(found: Found) -> str:
    """A page that loads nothing from elsewhere; all text in it is escaped."""
    header = f"<h1>{escape(found.folder.name)}</h1><p>search among pipelines</p>"
    said = "".join(f'<p class="said">{escape(line)}</p>' for line in (*found.conclusion(), *found.notes))
    parts = [
        section("Result", said + _dice(found)),
        section("Trials", _counts(found) + _trials(found)),
        section("What mattered", _importance(found)),
        section("Refused before they cost a second", _refused(found)),
        section("How to read it", "".join(f"<p>{escape(line)}</p>" for line in READING)),
    ]
    return document("medfuse: search", header, "".join(parts))


def _dice(found: Found) -> str:
    """The cases to choose by and the unseen ones, a dot for each mean."""
    rows = [("mean foreground Dice", "to choose by", f"unseen, {found.cases} cases, {found.seeds} seeds")]
    rows += [(w, number(found.inner[w]), found.unseen(w)) for w in found.outer]
    words = f"optimism of choosing: {found.optimism:+.4f} Dice" if len(found.outer) > 1 else ""
    return _table(rows) + (f"<p>{escape(words)}</p>" if words else "")


def _counts(found: Found) -> str:
    text = (
        f"{found.trials} trials in {duration(60 * found.minutes)}, at rungs of {found.rungs}; "
        f"{len(found.rows)} went to the last; {len(found.failed)} could not be trained."
    )
    return f"<p>{escape(text)}</p>"


def _trials(found: Found) -> str:
    lines = [
        dots.Row(
            f"trial {row.number}",
            f"Dice {row.told.dice:.3f}",
            [Dot(value, f"{case}: {value:.3f}") for case, value in sorted(row.told.cases.items())],
            colour(0 if row.number else 1),
            row.told.dice,
        )
        for row in found.rows[:12]
    ]
    rows = [("trial", "Dice", "seconds per case", "memory", "parameters", "front", "changes")]
    rows += [
        (
            str(row.number),
            number(row.told.dice),
            f"{row.told.seconds_per_case:.3g}",
            bytes_text(row.told.memory),
            f"{row.told.parameters:,}",
            "yes" if row.on_front else "",
            ", ".join(row.changes) or "as written",
        )
        for row in found.rows
    ]
    return _costs(found) + dots_html(lines, (0.0, 1.0), (0, 0.25, 0.5, 0.75, 1)) + _table(rows)


def _costs(found: Found) -> str:
    """Dice of the trials of the last rung against what they cost."""
    kinds = {
        "seconds_per_case": Axis("seconds per case"),
        "memory": Axis("memory of a case, MiB", lambda value: f"{value:,.0f}"),
        "parameters": Axis("parameters, millions"),
    }
    units = {"memory": 2**20, "parameters": 1e6}
    shown = [key for key in kinds if key != "parameters" or key in found.objectives]
    pictures = []
    for key in shown:
        points = [
            Point(
                getattr(row.told, key) / units.get(key, 1),
                row.told.dice,
                f"trial {row.number}: Dice {row.told.dice:.3f}, {_cost(row, key)}",
                "as written" if row.number == 0 else "chosen" if row is found.chosen else "",
            )
            for row in found.rows
        ]
        pictures.append(scatter_svg(points, kinds[key], Axis("Dice of the cases to choose by"), key))
    line = "Above and left is better; the line joins trials that no other beats in both."
    return f'{"".join(pictures)}<p class="said">{line}</p>'


def _cost(row: Row, key: str) -> str:
    said = {
        "seconds_per_case": f"{row.told.seconds_per_case:.3g} s per case",
        "memory": bytes_text(row.told.memory),
        "parameters": f"{row.told.parameters:,} parameters",
    }
    return said[key]


def _importance(found: Found) -> str:
    if not found.importance:
        return "<p>too few trials to tell</p>"
    rows = [("choice", "share of variance", "95 % interval")]
    rows += [(i.key, f"{i.share:.0%}", f"{i.low:.0%} … {i.high:.0%}") for i in found.importance]
    return _table(rows)


def _refused(found: Found) -> str:
    rows = [("combination", "why"), *((name, why) for name, why in [*found.refused.items()][:50])]
    return _table(rows) if len(rows) > 1 else ""


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(c)}</td>" for c in cells)}</tr>'
        for first, *cells in body
    )
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'
