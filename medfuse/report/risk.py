"""A page of how well scores tell bad label maps: risk against coverage, class by class, with intervals."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path

import numpy as np

from medfuse.core.files import write_text
from medfuse.core.text import number
from medfuse.quality.conformal import LEVEL
from medfuse.quality.curve import Interval
from medfuse.quality.honesty import OURS, Honesty
from medfuse.report.figures import colour, encode, literal, new_figure
from medfuse.report.style import document, section

_WORDS = (
    "Risk is the mean 1 - Dice of the cases that are trusted most, coverage the share of cases that those "
    "are; the area under the curve is the mean risk over all coverages, the lower the better. What is "
    "expected of a case is from cases of other folds, as is its bound. Intervals are of 95 %, by patients."
)


def write_quality_report(path: Path, name: str, honesty: Mapping[str, Honesty]) -> None:
    """Write the page, whole or not at all. Raises OutputError."""
    write_text(path, quality_page(name, honesty))


def quality_page(name: str, honesty: Mapping[str, Honesty]) -> str:
    """The page's text."""
    parts = [section(label, _of_class(label, one)) for label, one in honesty.items()]
    header = f"<h1>{escape(name)}: quality without a reference</h1><p>{escape(_WORDS)}</p>"
    return document(f"{name}: quality", header, "".join(parts))


def _of_class(label: str, one: Honesty) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{_interval(area)}</td>"
        f"<td>{_interval(one.ahead[name]) if name in one.ahead else ''}</td></tr>"
        for name, area in one.areas.items()
    )
    covered = (
        "<p>No bound: too few cases were judged.</p>"
        if one.covered is None
        else f"<p>{one.covered:.1%} of {one.bounded} cases are at their bound of {LEVEL:.0%} or above it.</p>"
    )
    picture = base64.b64encode(_curve(one)).decode()
    return (
        f'<img alt="risk against coverage of {escape(label)}" src="data:image/svg+xml;base64,{picture}">'
        f"<div class='wide'><table><caption>{one.cases} cases</caption><thead><tr>"
        f"<th scope='col'>trusted by</th><th scope='col'>area</th>"
        f"<th scope='col'>area of “{OURS}” less this one</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{covered}"
    )


def _interval(one: Interval) -> str:
    return f"{number(one.value)} ({number(one.low)} to {number(one.high)})"


def _curve(one: Honesty) -> bytes:
    figure = new_figure(5, 2.6)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    for index, (name, risks) in enumerate(one.curve.items()):
        coverage = np.arange(1, len(risks) + 1) / len(risks)
        axes.plot(coverage, risks, color=colour(index), label=literal(name))
    axes.set_xlabel("coverage")
    axes.set_ylabel("mean 1 - Dice")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return encode(figure, "svg")
