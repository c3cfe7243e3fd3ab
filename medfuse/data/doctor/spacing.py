"""Cases whose spacing was lost, or is in another unit: by the size that they would have with the others'."""

from __future__ import annotations

from collections.abc import Iterator
from math import log

import numpy as np

from medfuse.data.doctor.finding import Finding
from medfuse.data.doctor.group import Group
from medfuse.data.doctor.spread import FEW, Spread
from medfuse.data.grids import default_axes, lost_distance, lost_spacing, mm, usual_spacing

_OTHER = 1.25
"""Times that a spacing differs from the usual one, at least."""
_FAR = 3.5


def look(group: Group) -> Iterator[Finding]:
    """Of single cases, and of all (`data.grids`)."""
    cases = group.facts
    if len(cases) < 2:
        return
    told = False
    usual = usual_spacing(cases)
    if len(cases) >= FEW:
        boxes = {e.name: _box(e.structures[0].box) for e in group.framed}
        for axis_set in ("all",):
            spacings = np.log([c.spacing_mm for c in cases])
            extents = np.log([np.multiply(c.shape, c.spacing_mm) for c in cases])
            counts = np.log([c.shape for c in cases])
            reach = [Spread.of(extents[:, a], floor=0.05) for a in range(3)]
            count = [Spread.of(counts[:, a], floor=0.05) for a in range(3)]
            step = [Spread.of(spacings[:, a], floor=0.03) for a in range(3)]
            del axis_set
        for n, case in enumerate(cases):
            off = [
                a
                for a in range(3)
                if abs(spacings[n, a] - step[a].middle) > log(_OTHER)
                and abs(step[a].away(spacings[n, a])) > _FAR
                and abs(reach[a].away(extents[n, a])) > max(_FAR, abs(count[a].away(counts[n, a])) + 1)
            ]
            lost = len(default_axes(case.spacing_mm)) >= 2
            if not off or not (lost or len(off) >= 1):
                continue
            if not lost and not _by_labels(boxes, cases, n, off):
                continue
            told = True
            why = "what files say that were told none" if lost else "not that of the other cases"
            exam = next(e for e in group.exams if e.name == case.name)
            yield Finding(
                "spacing",
                case.name,
                exam.image,
                f"a spacing of {mm(case.spacing_mm)} mm, {why} ({mm(usual)}), with as many voxels as they",
                "likely" if lost else "possible",
                "give its true spacing",
            )
    if not told:
        for line in (*lost_spacing(cases), *lost_distance(cases)):
            what = line.removeprefix("warning: ")
            yield Finding("spacing", "", "all cases", what, "possible", "see where the files were converted")


def _box(box: tuple[slice, slice, slice]) -> list[int]:
    return [side.stop - side.start for side in box]


def _by_labels(boxes: dict[str, list[int]], cases: list, n: int, off: list[int]) -> bool:
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
