"""A cross-validation as a page: what is said of it, and a dot for each held-out case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from medfuse.report.dots import Dot, Row, folded_dots
from medfuse.report.figures import colour
from medfuse.report.style import document, section


def page(name: str, text: str, cases: Sequence[Mapping[str, Any]]) -> str:
    """`cases`: a mapping of `case`, `fold`, `label` and `Dice` for each case and label."""
    header = f"<h1>{escape(name)}</h1><p>cross-validation</p>"
    labels = dict.fromkeys(case["label"] for case in cases)
    rows = [_row(n, label, [c for c in cases if c["label"] == label]) for n, label in enumerate(labels)]
    dots = folded_dots(rows, (0.0, 1.0), (0, 0.25, 0.5, 0.75, 1), "more labels")
    parts = section("Result", f"<pre>{escape(text)}</pre>") + section("Dice of every held-out case", dots)
    return document(f"medfuse: {name}", header, parts)


def _row(number: int, label: str, cases: Sequence[Mapping[str, Any]]) -> Row:
    known = [case for case in cases if case["Dice"] is not None]
    dots = [Dot(one["Dice"], f"{one['case']}, fold {one['fold']}: {one['Dice']:.4f}") for one in known]
    mean = sum(dot.value for dot in dots) / len(dots) if dots else None
    words = "no case has it" if mean is None else f"Dice {mean:.3f}, n {len(dots)}"
    return Row(label, words, dots, colour(number), mean)
