"""One self-contained page per run: results, model, curves, cases, and how to repeat it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any, Literal

from medfuse.core.files import write_text
from medfuse.core.text import number
from medfuse.report.cards import card_ids, cards_html
from medfuse.report.curves import Row as CurveRow
from medfuse.report.curves import curve_svgs
from medfuse.report.dots import MOST_LINES, Dot, Row, folded_dots
from medfuse.report.evaluate import EvaluatedCase, Evaluation
from medfuse.report.feature_maps import Picture
from medfuse.report.graph import GraphNode, graph_svg, graph_words
from medfuse.report.intervals import Interval
from medfuse.report.overlays import OverlayCase, colors_of
from medfuse.report.style import document, section
from medfuse.report.summary import interval_lines, interval_of, lesion_lines, summarise


@dataclass(frozen=True)
class ReportContent:
    """What a report tells. `date` is text; `images` maps case names to the image files under the overlays.

    `views`: case → link to the viewer, with a note about those that have none. `pictures`, by case names too,
    show what is inside the network; only chosen cases' are drawn.
    `repeat` maps headings ("command", "versions", "data hashes", "machine", …) to text. An empty part is
    left out of the page.
    """

    name: str
    date: str
    evaluation: Evaluation
    graph: Sequence[GraphNode] = ()
    rows: Sequence[CurveRow] = ()
    images: Mapping[str, Path] = field(default_factory=dict)
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    ct: bool = False
    tolerance_mm: float = 1e-3
    pipeline: str = ""
    repeat: Mapping[str, str] = field(default_factory=dict)
    colors: Mapping[str, str] = field(default_factory=dict)
    views: Mapping[str, str] = field(default_factory=dict)
    view_note: str = ""


def write_report(path: Path, content: ReportContent) -> None:
    """Write the page to `path`, whole or not at all. Raises OutputError."""
    write_text(path, page(content))


def page(content: ReportContent) -> str:
    """The page's text. Nothing in it is loaded from elsewhere, and all text is escaped."""
    summary = summarise(content.evaluation)
    parts = [
        section("Result", _headline(content.evaluation, summary, content.colors)),
        section("Cases", _cases(content)) if content.evaluation.cases else "",
        section("All measures", _table(content.evaluation)) if content.evaluation.cases else "",
        section("Training", _curves(content.rows)),
        section("Model", _model(content.graph)) if content.graph else "",
        section("Inside the network", _pictures(content)),
        section("How to repeat it", _repeat(content)),
    ]
    header = f"<h1>{escape(content.name)}</h1><p>{escape(readable(content.date))}</p>"
    return document(f"{content.name}: segmentation report", header, "".join(parts))


def readable(date: str) -> str:
    """`2030-01-02T03:04:05+00:00` as `2 January 2030, 03:04 UTC`; what is no such time as it is."""
    try:
        time = datetime.fromisoformat(date)
    except ValueError:
        return date
    day = f"{time.day} {time:%B %Y}"
    clock = "" if len(date) <= len("2030-01-02") else f", {time:%H:%M} {time.tzname() or ''}".rstrip()
    return f"{day}{clock}"


def chosen_cases(cases: Sequence[EvaluatedCase]) -> list[tuple[str, EvaluatedCase]]:
    """The best, the median and the worst case by mean foreground Dice; fewer where there are fewer."""
    ranked = sorted((c for c in cases if c.dice is not None), key=lambda c: (-(c.dice or 0.0), c.name))
    if not ranked:
        return []
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    chosen: dict[int, str] = {}
    for word, place in places.items():
        chosen[place] = f"{chosen[place]} and {word}" if place in chosen else word
    return [(words, ranked[place]) for place, words in sorted(chosen.items())]


MEANS = (
    "label", "Dice", "n", "IoU", "HD95 (mm)", "ASSD (mm)", "NSD", "absolute volume error (ml)", "bias (ml)",
    "missed", "false alarms", "absent in both",
)  # fmt: skip


def _headline(evaluation: Evaluation, summary: Mapping[str, Any], colors: Mapping[str, str]) -> str:
    if not (evaluation.cases or evaluation.errors):
        return f'<p class="big">not judged</p>{_lines("note", evaluation.notes)}'
    mean, n = summary["foreground_mean"]["Dice"], summary["foreground_n"]["Dice"]
    rows = "".join(_label_row(name, str(value), summary) for name, value in evaluation.labels.items())
    cases = summary["cases"]
    heads = "".join(f'<th scope="col">{head}</th>' for head in MEANS)
    kind = "wide tall" if len(evaluation.labels) > MOST_LINES else "wide"
    words = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in summary["definitions"].items())
    return (
        f'<p class="big">{number(mean, 3)} <span>mean foreground Dice: {n} label{"s" * (n != 1)}, '
        f"{cases} case{'s' * (cases != 1)}{_between(interval_of(summary, 'foreground_mean'))}</span></p>"
        f"{_said([*lesion_lines(summary), *interval_lines(summary)])}"
        f"{_lines('error', evaluation.errors)}{_lines('note', evaluation.notes)}"
        f"{_dots(evaluation, summary, colors)}"
        f'<div class="{kind}"><table><caption>Means over n cases, or over as many as a mean says'
        f"</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        f"<details><summary>What these words mean</summary><dl>{words}</dl></details>"
    )


def _label_row(name: str, value: str, summary: Mapping[str, Any]) -> str:
    mean, outcomes = summary["mean"][value], summary["outcomes"][value]
    bar = f'<span class="bar" style="width:{4 * (mean["Dice"] or 0):.2f}em"></span>'
    shown = {"IoU": 3, "HD95": 1, "ASSD": 2, "NSD": 3, "absolute_volume_error_ml": 2}
    cells = [
        f"{bar}{number(mean['Dice'], 3)}{_limits(summary, value, 'Dice', 3)}",
        str(summary["n"][value]["Dice"]),
        *(
            number(mean[key], digits) + _limits(summary, value, key, digits) + _of(summary, value, key)
            for key, digits in shown.items()
        ),
        number(mean["volume_error_ml"], 2, sign=True)
        + _limits(summary, value, "volume_error_ml", 2)
        + _of(summary, value, "volume_error_ml"),
        *(str(outcomes[word]) for word in ("missed", "false alarm", "absent in both")),
    ]
    return f'<tr><th scope="row">{escape(name)}</th>{_cells(MEANS[1:], cells)}</tr>'


def _between(interval: Interval | None) -> str:
    """What the headline says of its interval."""
    if interval is None or interval.low is None:
        return ""
    return f"; {100 * interval.level:.3g} % interval{interval.limits_text(3)}, {interval.of()}"


def _said(lines: Sequence[str]) -> str:
    return "".join(f'<p class="said">{escape(line)}</p>' for line in lines)


def _limits(summary: Mapping[str, Any], value: str, key: str, digits: int) -> str:
    interval = interval_of(summary, value, key)
    text = "" if interval is None else interval.limits_text(digits)
    return f'<small class="limits">{text}</small>' if text else ""


def _cells(heads: Sequence[str], cells: Sequence[str]) -> str:
    """Cells that say what they are, for narrow screens, where a row is a card."""
    return "".join(f'<td data-head="{head}">{cell}</td>' for head, cell in zip(heads, cells))


def _of(summary: Mapping[str, Any], value: str, key: str) -> str:
    """A mean's own n, where it is not that of Dice."""
    n = summary["n"][value]
    return f' <small title="defined in {n[key]} cases">(n {n[key]})</small>' if n[key] != n["Dice"] else ""


def _model(graph: Sequence[GraphNode]) -> str:
    words = f"The model as a graph, from image to logits: {graph_words(graph)}."
    narrow = _data(graph_svg(graph, down=True), "svg+xml")
    return (
        f'<figure><picture><source media="(max-width: 640px)" srcset="{narrow}">'
        f"{_image(graph_svg(graph), 'svg+xml', words)}</picture></figure>"
    )


def _curves(rows: Sequence[CurveRow]) -> str:
    pictures = curve_svgs(rows)
    steps = int(rows[-1].get("step", 0)) if rows else 0
    figures = "".join(
        f"<figure>{_image(svg, 'svg+xml', f'Curve over {steps} training steps: {title}.')}</figure>"
        for title, svg in pictures.items()
    )
    return f'<div class="curves">{figures}</div>' if figures else ""


def _cases(content: ReportContent) -> str:
    """Every case as a card, worst first."""
    evaluation = content.evaluation
    overlays = {
        case.name: OverlayCase(
            case.name,
            content.images[case.name],
            case.pair.reference,
            case.pair.prediction,
            content.ct,
            content.tolerance_mm,
            content.colors,
        )
        for case in evaluation.cases
        if case.name in content.images
    }
    words = [
        "Worst first. Slices go through the largest area of the labels; the patient's right is on the left "
        "of axial and coronal slices, the front on the left of sagittal ones."
    ]
    cards, pictured = cards_html(evaluation.cases, overlays, evaluation.labels, content.views)
    if pictured < len(overlays):
        words.append(f"Pictures are of the worst {pictured}.")
    said = f'<p class="said">{escape(" ".join((*words, content.view_note)).strip())}</p>' if overlays else ""
    return said + cards


def _dots(evaluation: Evaluation, summary: Mapping[str, Any], colors: Mapping[str, str]) -> str:
    """A line of dots for each label, the Dice of each case, their mean and its interval; of many labels those
    with the least first.
    """
    places = card_ids(evaluation.cases)
    rows = []
    for name, color in zip(evaluation.labels, colors_of(evaluation.labels, colors)):
        found = [(c.name, d) for c in evaluation.cases if (d := c.metrics[name].dice) is not None]
        dots = [Dot(dice, f"{case}: {dice:.3f}", places[case]) for case, dice in found]
        mean = sum(dice for _, dice in found) / len(found) if found else None
        interval = interval_of(summary, str(evaluation.labels[name]))
        low, high = (interval.low, interval.high) if interval else (None, None)
        rows.append(Row(name, f"Dice {number(mean, 3)}, n {len(found)}", dots, color, mean, low, high))
    if len(rows) > MOST_LINES:
        rows.sort(key=lambda row: (row.mean is None, row.mean or 0.0))
    return folded_dots(rows, (0.0, 1.0), (0, 0.25, 0.5, 0.75, 1), "better labels")


def _pictures(content: ReportContent) -> str:
    figures = [
        f"<figure>{_image(picture.png, 'png', picture.words)}<figcaption>"
        f"{escape(f'{words.capitalize()} case, {case.name}: {picture.words}')}</figcaption></figure>"
        for words, case in chosen_cases(content.evaluation.cases)
        for picture in content.pictures.get(case.name, ())
    ]
    words = (
        "Each picture shows one axial slice of one window, where most of the prediction is; the patient's "
        "right is on the left."
    )
    return f"{''.join(figures)}<p>{words}</p>" if figures else ""


def _table(evaluation: Evaluation) -> str:
    found = [(case, name, m) for case in evaluation.cases for name, m in case.metrics.items()]
    found.sort(
        key=lambda row: (row[2].dice is None, row[2].dice or 0.0, -(row[2].hd95_mm or 0.0), row[0].name)
    )
    heads = ("case", "label", "Dice", "HD95 (mm)", "NSD", "volume error (ml)", "outcome")
    rows = "".join(
        f'<tr><th scope="row">{escape(case.name)}</th>'
        + _cells(
            heads[1:],
            (
                escape(name),
                number(m.dice, 3),
                number(m.hd95_mm, 1),
                number(m.nsd, 3),
                number(m.volume_error_ml, 2, sign=True),
                m.outcome,
            ),
        )
        + "</tr>"
        for case, name, m in found
    )
    buttons = "".join(f'<th scope="col"><button type="button">{head}</button></th>' for head in heads)
    return (
        '<div class="wide tall"><table class="sortable"><caption>Every case and label, worst Dice first'
        f"</caption><thead><tr>{buttons}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _repeat(content: ReportContent) -> str:
    blocks = [f"<h3>{escape(head)}</h3><pre>{escape(text)}</pre>" for head, text in content.repeat.items()]
    if content.pipeline:
        blocks.append(
            "<details><summary>the pipeline, with every default resolved</summary>"
            f"<pre>{escape(content.pipeline)}</pre></details>"
        )
    return "".join(blocks)


def _lines(kind: Literal["error", "note"], lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _image(data: bytes, kind: Literal["png", "svg+xml"], alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="{_data(data, kind)}">'


def _data(data: bytes, kind: Literal["png", "svg+xml"]) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
