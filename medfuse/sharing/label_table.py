"""labels.csv: each label's value, name and codes, under the column names that Slicer and dcmqi know."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from medfuse.core.codes import Code
from medfuse.sharing.description import Label

LABELS = "labels.csv"
_CODED = (
    "SegmentedPropertyCategoryCodeSequence",
    "SegmentedPropertyTypeCodeSequence",
    "SegmentedPropertyTypeModifierCodeSequence",
    "AnatomicRegionSequence",
    "AnatomicRegionModifierSequence",
)
_PARTS = ("CodingSchemeDesignator", "CodeValue", "CodeMeaning")
COLUMNS = ("LabelValue", "Name", *(f"{what}.{part}" for what in _CODED for part in _PARTS), "Color")


def label_table(labels: Iterable[Label]) -> str:
    """A row for each label but the background."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for label in labels:
        place = label.within
        region, modifier = (place, label.side) if place else ("", "")
        codes = (label.kind, label.code, "" if place else label.side, region, modifier)
        writer.writerow(
            [label.value, label.name, *(cell for code in codes for cell in _cells(code)), label.color]
        )
    return text.getvalue()


def _cells(said: str) -> tuple[str, str, str]:
    if not said:
        return "", "", ""
    code = Code.of(said)
    return code.scheme, code.value, code.meaning
