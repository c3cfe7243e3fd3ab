"""Labels that end at a straight plane inside the image, or leave slices out."""

from __future__ import annotations

from collections.abc import Iterator
from math import log

from medfuse.core.text import listed
from medfuse.data.doctor.atlas import Flip
from medfuse.data.doctor.exam import Exam
from medfuse.data.doctor.finding import Finding
from medfuse.data.doctor.group import Group
from medfuse.data.doctor.spread import FEW, Spread
from medfuse.data.doctor.structures import FACES

FLAT = 0.45
"""Of its largest cross-section that the last slice of a structure has, where it was cut."""
_SHORT = 3.5
_SLIGHTLY_FLAT, _SLIGHTLY_FAR = 0.25, 2.5
_FAR = 5.0
_USUAL_GAPS = 0.1


def look(group: Group) -> Iterator[Finding]:
    """By how structures end on each side, held against the other cases; gaps show by themselves."""
    yield from _ends(group)
    yield from _gaps(group)


def _ends(group: Group) -> Iterator[Finding]:
    told = set()
    for value, those in group.sized.items():
        for face, name in enumerate(FACES):
            usual = usual_end(group, value, face)
            lengths = usual_length(group, value, face // 2)
            for exam in those:
                share = exam.structures[value].ends[face]
                short = lengths.away(log_length(exam, value, face // 2)) < -_SHORT
                if exam.name in told or not (is_odd(share, usual) or (short and is_flat(share, usual))):
                    continue
                told.add(exam.name)
                what = "all labels together" if value == 0 else group.name_of(value)
                yield Finding(
                    "cut",
                    exam.name,
                    exam.label,
                    f"{what} ends at a plane towards {name}: its last slice has {share:.0%} of its largest "
                    f"cross-section, in other cases {usual.middle:.0%}",
                    "likely",
                    "look whether the label was cut off, and complete it",
                )


def ends_oddly(group: Group, exam: Exam, flip: Flip) -> bool:
    """Whether a label of a case ends at a plane as in no other, also if the case is turned round."""
    for value, those in group.sized.items():
        if exam not in those:
            continue
        for face in range(len(FACES)):
            turned = face ^ 1 if flip[face // 2] else face
            if is_odd(exam.structures[value].ends[face], usual_end(group, value, turned)):
                return True
    return False


def usual_end(group: Group, value: int, face: int) -> Spread:
    return Spread.upper(
        [e.structures[value].ends[face] for e in group.sized[value]],
        floor=0.04,
    )


def usual_length(group: Group, value: int, axis: int) -> Spread:
    return Spread.of([log_length(e, value, axis) for e in group.sized[value]], floor=0.05)


def log_length(exam: Exam, value: int, axis: int) -> float:
    side = exam.structures[value].box[axis]
    mm = exam.facts.spacing_mm[axis] if exam.facts else 1.0
    return log((side.stop - side.start) * mm)


def is_flat(share: float, usual: Spread) -> bool:
    """Of a structure that is shorter than any other."""
    return share >= _SLIGHTLY_FLAT and usual.away(share) >= _SLIGHTLY_FAR


def is_odd(share: float, usual: Spread) -> bool:
    return share >= FLAT and usual.away(share) >= _FAR


def _gaps(group: Group) -> Iterator[Finding]:
    """Slices that a structure leaves out, but where it is usual."""
    for axis, name in enumerate("xyz"):
        found = {
            exam.name: (exam, value, one.gaps[axis])
            for exam in group.framed
            for value, one in exam.structures.items()
            if one.gaps[axis]
        }
        if len(found) > max(1, _USUAL_GAPS * len(group.framed)) and len(group.framed) >= FEW:
            found = {n: f for n, f in found.items() if len(f[2]) > 0 and f[1] == 0}
            if len(found) > 0.3 * len(group.framed):
                continue
        for exam, value, slices in found.values():
            what = "all labels leave" if value == 0 else f"{group.name_of(value)} leaves"
            places = listed([str(n + exam.structures[value].box[axis].start) for n in slices], 6)
            yield Finding(
                "gap",
                exam.name,
                exam.label,
                f"{what} out slices along {name} ({places}, from 0 in RAS+) between others that are alike",
                "likely",
                "label those slices too",
            )
