"""One self-contained page per run: results, model, curves, cases, and how to repeat it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any, Literal

from medfuse.core.errors import DataError
from medfuse.core.files import write_text
from medfuse.core.text import number
from medfuse.report.curves import Row, curve_svgs
from medfuse.report.evaluate import EvaluatedCase, Evaluation
from medfuse.report.feature_maps import Picture
from medfuse.report.graph import GraphNode, graph_svg, graph_words
from medfuse.report.overlays import OverlayCase, overlay_png
from medfuse.report.summary import summarise


@dataclass(frozen=True)
class ReportContent:
    """What a report tells. `date` is text; `images` maps case names to the image files under the overlays.

    `pictures`, by case names too, show what is inside the network; only chosen cases' are drawn.
    `repeat` maps headings ("command", "versions", "data hashes", "machine", …) to text. An empty part is
    left out of the page.
    """

    name: str
    date: str
    evaluation: Evaluation
    graph: Sequence[GraphNode] = ()
    rows: Sequence[Row] = ()
    images: Mapping[str, Path] = field(default_factory=dict)
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    ct: bool = False
    tolerance_mm: float = 1e-3
    pipeline: str = ""
    repeat: Mapping[str, str] = field(default_factory=dict)
    colors: Mapping[str, str] = field(default_factory=dict)


def write_report(path: Path, content: ReportContent) -> None:
    """Write the page to `path`, whole or not at all. Raises OutputError."""
    write_text(path, page(content))


def page(content: ReportContent) -> str:
    """The page's text. Nothing in it is loaded from elsewhere, and all text is escaped."""
    summary = summarise(content.evaluation)
    parts = [
        _section("Result", _headline(content.evaluation, summary)),
        _section("Model", _model(content.graph)) if content.graph else "",
        _section("Training", _curves(content.rows)),
        _section("Cases", _overlays(content) + _table(content.evaluation))
        if content.evaluation.cases
        else "",
        _section("Inside the network", _pictures(content)),
        _section("How to repeat it", _repeat(content)),
    ]
    title = escape(f"{content.name}: segmentation report")
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body>\n"
        f"<header><h1>{escape(content.name)}</h1><p>{escape(readable(content.date))}</p></header>\n"
        f"<main>{''.join(parts)}</main>\n<script>{SORT}</script>\n</body></html>\n"
    )


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
    "label", "Dice", "n", "IoU", "HD95 (mm)", "NSD", "absolute volume error (ml)", "bias (ml)",
    "missed", "false alarms", "absent in both",
)  # fmt: skip


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>\n" if body else ""


def _headline(evaluation: Evaluation, summary: Mapping[str, Any]) -> str:
    if not (evaluation.cases or evaluation.errors):
        return f'<p class="big">not judged</p>{_lines("note", evaluation.notes)}'
    mean, n = summary["foreground_mean"]["Dice"], summary["foreground_n"]["Dice"]
    rows = "".join(_label_row(name, str(value), summary) for name, value in evaluation.labels.items())
    cases = summary["cases"]
    heads = "".join(f'<th scope="col">{head}</th>' for head in MEANS)
    words = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in summary["definitions"].items())
    return (
        f'<p class="big">{number(mean, 3)} <span>mean foreground Dice: {n} label{"s" * (n != 1)}, '
        f"{cases} case{'s' * (cases != 1)}</span></p>"
        f"{_lines('error', evaluation.errors)}{_lines('note', evaluation.notes)}"
        '<div class="wide"><table><caption>Means over n cases, or over as many as a mean says'
        f"</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        f"<details><summary>What these words mean</summary><dl>{words}</dl></details>"
    )


def _label_row(name: str, value: str, summary: Mapping[str, Any]) -> str:
    mean, outcomes = summary["mean"][value], summary["outcomes"][value]
    bar = f'<span class="bar" style="width:{4 * (mean["Dice"] or 0):.2f}em"></span>'
    shown = {"IoU": 3, "HD95": 1, "NSD": 3, "absolute_volume_error_ml": 2}
    cells = [
        f"{bar}{number(mean['Dice'], 3)}",
        str(summary["n"][value]["Dice"]),
        *(number(mean[key], digits) + _of(summary, value, key) for key, digits in shown.items()),
        number(mean["volume_error_ml"], 2, sign=True) + _of(summary, value, "volume_error_ml"),
        *(str(outcomes[word]) for word in ("missed", "false alarm", "absent in both")),
    ]
    return f'<tr><th scope="row">{escape(name)}</th>{_cells(MEANS[1:], cells)}</tr>'


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


def _curves(rows: Sequence[Row]) -> str:
    pictures = curve_svgs(rows)
    steps = int(rows[-1].get("step", 0)) if rows else 0
    figures = "".join(
        f"<figure>{_image(svg, 'svg+xml', f'Curve over {steps} training steps: {title}.')}</figure>"
        for title, svg in pictures.items()
    )
    return f'<div class="curves">{figures}</div>' if figures else ""


def _overlays(content: ReportContent) -> str:
    chosen = chosen_cases(content.evaluation.cases)
    figures = "".join(_overlay(words, case, content) for words, case in chosen)
    words = (
        "Slices go through the largest area of the labels. The patient's right is on the left of axial and "
    )
    return (
        f"{figures}<p>{words}coronal slices, the front on the left of sagittal ones.</p>" if figures else ""
    )


def _overlay(words: str, case: EvaluatedCase, content: ReportContent) -> str:
    image = content.images.get(case.name)
    if image is None:
        return ""
    scores = ", ".join(
        f"{name} {number(m.dice, 3)}" for name, m in case.metrics.items() if m.dice is not None
    )
    caption = (
        f"{words.capitalize()} case, {case.name}: mean foreground Dice {number(case.dice, 3)} ({scores})"
    )
    files = OverlayCase(
        case.name,
        image,
        case.pair.reference,
        case.pair.prediction,
        content.ct,
        content.tolerance_mm,
        content.colors,
    )
    try:
        picture = overlay_png(files, content.evaluation.labels)
    except DataError as error:
        return _lines("error", error.lines)
    alt = (
        f"{case.name} in three planes, axial, coronal and sagittal: image, prediction filled, reference as a "
        "line. The patient's right is on the left."
    )
    return f"<figure>{_image(picture, 'png', alt)}<figcaption>{escape(caption)}</figcaption></figure>"


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


STYLE = """
:root { --ink: #1f2933; --soft: #616e7c; --line: #e4e7eb; --page: #f5f7fa; --card: #fff; --accent: #0072b2 }
@media (prefers-color-scheme: dark) {
  :root { color-scheme: dark; --ink: #f5f7fa; --soft: #9aa5b1; --line: #3e4c59; --page: #1f2933;
    --card: #29333e; --accent: #56b4e9 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
header, main { max-width: 1100px; margin: 0 auto; padding: 0 1rem }
h1 { margin: 1.5rem 0 0; overflow-wrap: anywhere } header p { margin: 0; color: var(--soft) }
h2 { margin: 0 0 .75rem; font-size: 1.2rem } h3 { margin: 1rem 0 .25rem; font-size: 1rem }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  margin: 1rem 0; padding: 1.25rem }
.big { font-size: 2.4rem; font-weight: 700; margin: 0 0 .5rem; color: var(--accent) }
.big span { font-size: 1rem; font-weight: 400; color: var(--soft); display: inline-block; line-height: 1.3 }
figure { margin: 0 0 1rem; overflow-x: auto }
figure img { max-width: 100%; border-radius: 4px; display: block }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(21rem, 100%), 1fr)); gap: 0 1rem }
.curves img { width: 100% }
figcaption, caption { color: var(--soft); font-size: .9rem; text-align: left; padding: .25rem 0 }
.wide { overflow-x: auto } .tall { max-height: 40rem; overflow-y: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:first-child, .sortable td:nth-child(2), .sortable th:nth-child(2),
.sortable td:last-child { text-align: left }
thead th { color: var(--soft); font-weight: 600; background: var(--card); position: sticky; top: 0;
  white-space: normal }
tbody th { font-weight: 500 }
button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer }
button::after { content: " \\2195"; opacity: .5 }
[aria-sort=ascending] button::after { content: " \\2191"; opacity: 1 }
[aria-sort=descending] button::after { content: " \\2193"; opacity: 1 }
.bar { display: inline-block; height: .7em; margin-right: .5em;
  background: var(--accent); border-radius: 2px }
.error li { color: #d55e00 } .note li { color: var(--soft) }
dt { font-weight: 600 } dd { margin: 0 0 .4rem 1rem } summary { cursor: pointer; margin-top: .75rem }
pre { background: var(--page); padding: .75rem; border-radius: 4px; overflow-x: auto; font-size: .85rem }
@media (max-width: 640px) {
  header, main { padding: 0 .5rem } section { padding: .75rem }
  .wide thead { display: none } .tall { max-height: none }
  .wide tr { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem; padding: .5rem 0;
    border-bottom: 1px solid var(--line) }
  .wide tbody th { grid-column: 1 / -1; font-weight: 700; white-space: normal; overflow-wrap: anywhere }
  .wide th, .wide td { border: 0; padding: .1rem 0; white-space: normal }
  .wide td { display: flex; justify-content: space-between; gap: .5rem }
  .wide td::before { content: attr(data-head); color: var(--soft); font-size: .85rem; text-align: left }
  .bar { display: none } dd { margin-left: 0 }
}
@media print {
  :root { --ink: #000; --soft: #444; --line: #ccc; --page: #fff; --card: #fff; --accent: #0072b2 }
  section { border: 0; padding: 0; break-inside: auto }
  .tall { max-height: none } figure, tr { break-inside: avoid } button::after { content: "" }
}
"""

SORT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, i) => row.cells[i].textContent;
  heads.forEach((head, i) => head.firstChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(h => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (a, b) => {
      const x = key(a, i), y = key(b, i), m = parseFloat(x), n = parseFloat(y);
      if ((x === "\\u2013") !== (y === "\\u2013")) return x === "\\u2013" ? 1 : -1;
      const d = i > 1 && !isNaN(m) && !isNaN(n) ? m - n : x.localeCompare(y, undefined, {numeric: true});
      return up ? d : -d;
    };
    body.append(...[...body.rows].sort(order));
  }));
}
"""
