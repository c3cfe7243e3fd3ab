"""Label maps without labels, or without one that all others have."""

from __future__ import annotations

from collections.abc import Iterator

from medfuse.core.labels import members
from medfuse.data.doctor.finding import Finding
from medfuse.data.doctor.group import Group
from medfuse.data.doctor.spread import FEW

_ALL = 0.95
"""Of the cases that have a label which is missed where it is not."""
"""Of its usual volume that a label has which is as good as missing."""


def look(group: Group) -> Iterator[Finding]:
    read = [exam for exam in group.exams if exam.facts is not None and exam.case.label is not None]
    faulty = {exam.name for exam in read if exam.faults}
    filled = [exam for exam in read if exam.structures]
    for exam in read:
        if not exam.structures and exam.name not in faulty and len(filled) > 0.5 * len(read):
            what = "its label map holds background alone"
            remedy = "label it, or leave the case out if nobody looked at it"
            yield Finding("empty", exam.name, exam.label, what, "certain", remedy)
    filled = [exam for exam in filled if exam.name not in faulty]  # another value may stand for the label
    if len(filled) < FEW:
        return
    for name, value in group.info.labels.items():
        values = [v for v in members(value) if v]
        lacking = [exam for exam in filled if values and not any(v in exam.structures for v in values)]
        if (
            values
            and lacking
            and len(lacking) <= max(1.0, (1 - _ALL) * len(filled))
            and len(filled) >= 2 * FEW
        ):
            for exam in lacking:
                what = f"has no {name}, as {len(filled) - len(lacking)} of {len(filled)} cases have"
                remedy = f"look whether {name} is there and was left out"
                yield Finding("missing", exam.name, exam.label, what, "possible", remedy)
