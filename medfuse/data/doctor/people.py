"""Folds of a dataset that have cases of one patient on both sides."""

from __future__ import annotations

from collections.abc import Iterator

from medfuse.core.text import listed
from medfuse.data.doctor.finding import Finding
from medfuse.data.doctor.group import Group


def look(group: Group) -> Iterator[Finding]:
    """By the patients that the dataset tells, or its DICOM files; one line for each fold."""
    whose = {exam.name: exam.case.patient for exam in group.exams if exam.case.patient}
    for number, split in enumerate(group.info.splits):
        train, judge = ({whose[n] for n in side if n in whose} for side in (split.train, split.validation))
        if both := sorted(train & judge):
            of = [name for name in (*split.train, *split.validation) if whose.get(name) in both]
            yield Finding(
                "patients",
                "",
                f"fold {number} of the dataset's splits",
                f"{listed(both)} {'trains and judges' if len(both) == 1 else 'train and judge'} "
                f"({listed(of, 6)}), so that Dice tells of what was learned",
                "certain",
                "move all cases of a patient to one side, or let medfuse draw the folds",
            )
