"""All cases examined, and every look at them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from medfuse.api import Case, DatasetInfo
from medfuse.data.doctor import (
    channels,
    contrast,
    copies,
    cut,
    emptiness,
    hounsfield,
    intensities,
    people,
    permuted,
    placed,
    spacing,
    turned,
)
from medfuse.data.doctor.exam import Exam, examine
from medfuse.data.doctor.finding import Finding
from medfuse.data.doctor.group import Group
from medfuse.data.doctor.spread import FEW
from medfuse.data.parallel import in_threads

LOOKS: tuple[Callable[[Group], Iterator[Finding]], ...] = (
    emptiness.look,
    spacing.look,
    channels.look,
    hounsfield.wrapped,
    contrast.inverted,
    hounsfield.look,
    copies.look,
    people.look,
    turned.look,
    permuted.look,
    placed.scaled,
    cut.look,
    placed.look,
    contrast.unlike,
    intensities.look,
)
"""In the order in which one explains what another would see of it."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found, case by case, and what could not be judged."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def examine_all(
    cases: Sequence[Case], info: DatasetInfo, *, tolerance_mm: float, progress: Callable[[int, int], None]
) -> list[Exam]:
    """Each case is read once, in threads."""
    return in_threads(
        lambda case: examine(case, info, tolerance_mm=tolerance_mm), cases, os.cpu_count() or 1, progress
    )


def diagnose(exams: Sequence[Exam], info: DatasetInfo) -> Diagnosis:
    """Every finding. What one fault explains is not told again as another: the first of a case counts, and
    of those that its file shows by itself all."""
    group = Group(exams, info)
    found = [finding for exam in exams for finding in exam.faults]
    explained = {finding.case for finding in found}
    for look in LOOKS:
        more = [one for one in look(group) if one.kind == "copy" or not one.case or one.case not in explained]
        found += more
        explained |= {one.case for one in more if one.kind == "missing"}  # what is compared lies elsewhere
        explained |= {one.case for one in more if one.kind != "copy" and one.sure != "possible"}
    order = {exam.name: n for n, exam in enumerate(exams)}
    found.sort(key=lambda finding: order.get(finding.case, -1))
    return Diagnosis(tuple(found), tuple(_notes(group)))


def _notes(group: Group) -> Iterator[str]:
    if len(group.framed) < FEW:
        yield (
            f"{len(group.framed)} labelled cases can be held against each other, and {FEW} are needed: of "
            "shifts, flips, permuted and cut labels, contrast and spacing nothing could be told"
        )
    elif not group.is_alike:
        yield (
            "images around the labels are too unlike from case to case "
            f"(correlation {group.usual_image.middle:.2f}): of flips, scale and contrast little could be told"
        )
