"""Patients that are in a dataset twice, also where the image was saved in another way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from medfuse.data.doctor.exam import Exam
from medfuse.data.doctor.finding import Finding
from medfuse.data.doctor.group import Group

SAME = 0.985
"""Correlation of single voxels, noise and all, from which two images are one."""
_AT_ONCE = 500


def look(group: Group) -> Iterator[Finding]:
    """By voxels of each image at the same places of its extent, turned to RAS+, in whatever unit.

    One line for each case that is like an earlier one, however many are.
    """
    known = [exam for exam in group.exams if exam.grains is not None and np.ptp(exam.grains) > 0]
    if len(known) < 2:
        return
    grains = np.stack([_standard(exam.grains) for exam in known if exam.grains is not None])
    told: dict[str, Finding] = {}
    for start in range(0, len(known), _AT_ONCE):
        alike = grains[start : start + _AT_ONCE] @ grains.T
        for row, column in np.argwhere(alike >= SAME):
            first, second = known[start + row], known[column]
            if start + row < column and not _are_one_file(first, second):
                found = _finding(first, second, float(alike[row, column]))
                if second.name not in told or told[second.name].sure != "certain" == found.sure:
                    told[second.name] = found
    yield from told.values()


def _standard(grains: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Of length 1 and mean 0, ends clipped, so that a few bright voxels are not all."""
    rows = []
    for channel in grains:
        low, high = np.percentile(channel, (1, 99))
        row = np.clip(channel, low, high)
        row = row - row.mean()
        rows.append(row / max(float(np.linalg.norm(row)), 1e-9))
    return np.concatenate(rows).astype(np.float32) / np.sqrt(len(rows))


def _are_one_file(first: Exam, second: Exam) -> bool:
    return first.case.images == second.case.images


def _finding(first: Exam, second: Exam, alike: float) -> Finding:
    equal = first.facts and second.facts and {*first.facts.files.values()} == {*second.facts.files.values()}
    how = "byte for byte" if equal else f"though saved otherwise (voxels agree by {alike:.3f})"
    whose = first.case.patient, second.case.patient
    if all(whose) and whose[0] != whose[1]:
        how += f", and said to be of another patient ({whose[1]}, not {whose[0]})"
    return Finding(
        "copy",
        second.name,
        second.image,
        f"is the image of {first.name} ({first.image}), {how}",
        "certain" if equal else "likely",
        "keep one of them, or both on one side of every fold (`split: {group: …}`)",
    )
