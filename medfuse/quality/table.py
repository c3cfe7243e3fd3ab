"""quality.csv: a row for each class of each case, the worst first; and the one line that sums it up."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from medfuse.core.text import listed
from medfuse.quality.scores import CASE_SCORES, SCORES

NAME = "quality.csv"
_NAMED = 3

Entries = Mapping[str, Mapping[str, Any]]
"""Case → what a manifest says of it."""

HEAD = (
    "case",
    "class",
    "look",
    "expected",
    "lower",
    *(score.name for score in SCORES),
    *(score.name for score in CASE_SCORES),
    "reasons",
)


def as_csv(entries: Entries) -> str:
    """Empty cells where a class has no such number. Spacing, field of view and intensities are the case's.
    Where nothing tells which Dice is to be expected, the highest entropy comes first."""
    rows = []
    for case, entry in entries.items():
        of_case = _mapping(entry.get("case_quality"))
        for name, scores in _mapping(entry.get("quality")).items():
            said = {**of_case, **_mapping(scores), "case": case, "class": name}
            rows.append(said)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEAD)
    for said in sorted(rows, key=_order):
        writer.writerow(["" if said.get(key) is None else _cell(key, said[key]) for key in HEAD])
    return text.getvalue()


def to_look_at(entries: Entries) -> list[str]:
    """The cases that should be looked at, the worst first."""
    worst: dict[str, tuple[Any, ...]] = {}
    for case, entry in entries.items():
        for name, scores in _mapping(entry.get("quality")).items():
            said = {**_mapping(scores), "case": case, "class": name}
            if said.get("look"):
                worst[case] = min(worst.get(case, _order(said)), _order(said))
    return sorted(worst, key=lambda case: worst[case])


def summary_line(entries: Entries, where: object) -> str:
    """`7 of 200 scans should be looked at, a, b, c first: out/quality.csv`; nothing without scores."""
    judged = [case for case, entry in entries.items() if "quality" in entry]
    if not judged:
        return ""
    looked = to_look_at(entries)
    if not looked:
        return f"none of {len(judged)} scans stands out: {where}"
    first = f", {listed(looked, _NAMED)} first" if len(looked) > 1 else f", {looked[0]}"
    return f"{len(looked)} of {len(judged)} scans should be looked at{first}: {where}"


def _order(said: Mapping[str, Any]) -> tuple[Any, ...]:
    """What should be looked at comes first, then the least that is expected, then the highest entropy."""
    expected, entropy = said.get("expected"), said.get("entropy")
    return (
        not said.get("look"),
        expected is not None,
        expected if isinstance(expected, float | int) else 0.0,
        -entropy if isinstance(entropy, float | int) else 0.0,
        str(said["case"]),
        str(said["class"]),
    )


def _cell(key: str, value: Any) -> Any:
    if key == "components" and isinstance(value, float) and value.is_integer():
        return int(value)
    return ("yes" if value else "no") if isinstance(value, bool) else value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
