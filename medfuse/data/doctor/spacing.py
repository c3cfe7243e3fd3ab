"""Cases whose spacing was lost, or is in another unit: by the size that they would have with the others'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log

import numpy as np
import numpy.typing as npt

from medfuse.data.doctor.finding import Finding
from medfuse.data.doctor.group import Group
from medfuse.data.doctor.spread import FEW, Spread
from medfuse.data.fingerprint import CaseFacts
from medfuse.data.grids import default_axes, lost_distance, lost_spacing, mm, usual_spacing

_OTHER = 1.25
"""Times that a spacing differs from the usual one, at least."""
_FAR = 3.5


def look(group: Group) -> Iterator[Finding]:
    """Of single cases, and where there are none, of all (`data.grids`)."""
    found = [*_odd(group)] if len(group.facts) >= FEW else []
    yield from found
    if found or len(group.facts) < 2:
        return
    for line in (*lost_spacing(group.facts), *lost_distance(group.facts)):
        what = line.removeprefix("warning: ")
        yield Finding("spacing", "", "all cases", what, "possible", "see where the files were converted")


def _odd(group: Group) -> Iterator[Finding]:
    """Cases of about as many voxels as the others, whose extent is another one as their spacing is."""
    cases, boxes = group.facts, {e.name: _box(e.structures[0].box) for e in group.framed}
    files, usual = {exam.name: exam.image for exam in group.exams}, usual_spacing(cases)
    steps = np.log([case.spacing_mm for case in cases])
    counts = np.log([case.shape for case in cases])
    step, count, reach = (_spreads(rows) for rows in (steps, counts, steps + counts))
    for n, case in enumerate(cases):
        off = [
            a
            for a in range(3)
            if abs(steps[n, a] - step[a].middle) > log(_OTHER)
            and abs(step[a].away(steps[n, a])) > _FAR
            and abs(reach[a].away(steps[n, a] + counts[n, a]))
            > max(_FAR, abs(count[a].away(counts[n, a])) + 1)
        ]
        defaults = default_axes(case.spacing_mm)
        lost = len(defaults) >= 2 and {*off} <= {*defaults}
        if off and (lost or _by_labels(boxes, cases, n, off)):
            why = "; so files say that were told none" if lost else ""
            yield Finding(
                "spacing",
                case.name,
                files[case.name],
                f"a spacing of {mm(case.spacing_mm)} mm, where other cases, with as many voxels, have "
                f"{mm(usual)} mm{why}",
                "likely" if lost else "possible",
                "give its true spacing",
            )


def _spreads(rows: npt.NDArray[np.float64]) -> list[Spread]:
    return [Spread.of(column, floor=0.05) for column in rows.T]


def _box(box: tuple[slice, slice, slice]) -> list[int]:
    return [side.stop - side.start for side in box]


def _by_labels(boxes: dict[str, list[int]], cases: Sequence[CaseFacts], n: int, off: list[int]) -> bool:
    """Whether the labels of a case would have a usual size with the usual spacing, and have none now."""
    if cases[n].name not in boxes:
        return False
    known = [c for c in cases if c.name in boxes]
    for a in off:
        sizes = Spread.of([log(boxes[c.name][a] * c.spacing_mm[a]) for c in known], floor=0.1)
        own = boxes[cases[n].name][a]
        middle = float(np.median([c.spacing_mm[a] for c in known]))
        if abs(sizes.away(log(own * cases[n].spacing_mm[a]))) > 3 > abs(sizes.away(log(own * middle))):
            return True
    return False
