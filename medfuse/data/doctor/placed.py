"""Labels that lie beside what they label, or are larger or smaller than it."""

from __future__ import annotations

from collections.abc import Iterator

from medfuse.data.doctor.atlas import NO_FLIP, NO_ZOOM, Place
from medfuse.data.doctor.exam import Exam
from medfuse.data.doctor.finding import Finding
from medfuse.data.doctor.group import FITS, Group
from medfuse.data.doctor.turned import flip_finding

_GAIN = 0.1
"""Of the agreement, by which another place or size is better where edges do not say so."""
_SLIGHT = 0.02
"""The same where they do."""
_SIZE = 0.1
"""Of the agreement, by which another size is better than another place."""
_NEAR = 0.15
"""Of its length along an axis, by which a label of another size may also lie elsewhere."""
_DOUBTFUL = 1.5
"""Deviations of the agreement with edges below the usual, where the image around it is what is odd."""
_LEAST = 2
"""Voxels along an axis that a shift has at least: borders are drawn no better."""


def scaled(group: Group) -> Iterator[Finding]:
    """Labels of another size along all axes."""
    for number, exam in enumerate(group.framed if group.is_alike else ()):
        if not (group.is_off_edges(exam) or group.is_odd(number)):
            continue
        places = group.places(number)
        alike = [p for p in places if len({*p.zoom}) == 1 and p.zoom != NO_ZOOM and _is_near(exam, p)]
        others = max(p.agreement for p in places if p.zoom == NO_ZOOM)
        best = max(alike, key=lambda place: place.agreement, default=None)
        if best and best.agreement > others + _SIZE and group.fits(best.agreement):
            yield _scale(exam, best)


def look(group: Group) -> Iterator[Finding]:
    """By edges of the image under the border of the label, and by the image around it."""
    for number, exam in enumerate(group.framed):
        off_edges = group.is_off_edges(exam)
        odd = group.is_odd(number) and group.edges_away(exam) < -_DOUBTFUL
        if group.is_alike and (off_edges or odd):
            if found := _by_others(group, number, exam, off_edges):
                yield found
        elif off_edges and (found := _by_edges(group, exam)):
            yield found


def _by_others(group: Group, number: int, exam: Exam, off_edges: bool) -> Finding | None:
    now, places = float(group.images[number, 0]), group.places(number)
    plain = next(place for place in places if place.flip == NO_FLIP and place.zoom == NO_ZOOM)
    scaled = max(
        (place for place in places if place.zoom != NO_ZOOM and _is_near(exam, place)),
        key=lambda place: place.agreement,
        default=plain,
    )
    turned = max((place for place in places if place.flip != NO_FLIP), key=lambda place: place.agreement)
    if scaled.agreement > max(plain.agreement, turned.agreement) + _SIZE:
        best, found = scaled, _scale(exam, scaled)
    elif turned.agreement > plain.agreement + _SIZE:
        best, found = turned, flip_finding(exam, turned.flip)
    else:
        best, found = plain, _shift(exam, plain.offset, plain.agreement, now)
        if max(map(abs, plain.offset)) < _LEAST and off_edges:
            return _by_edges(group, exam)
    return (
        found
        if group.fits(best.agreement) and best.agreement - now >= (_SLIGHT if off_edges else _GAIN)
        else None
    )


def _by_edges(group: Group, exam: Exam) -> Finding | None:
    edges = exam.edges
    if edges is None or max(map(abs, edges.offset)) < _LEAST:
        return None
    if group.usual_edges.away(edges.best) < -FITS:
        return None
    return _shift(exam, edges.offset, edges.best, edges.here)


def _is_near(exam: Exam, place: Place) -> bool:
    box = exam.structures[0].box
    return all(
        abs(offset) <= max(2.0, _NEAR * (side.stop - side.start)) for offset, side in zip(place.offset, box)
    )


def _scale(exam: Exam, place: Place) -> Finding:
    times = " × ".join(f"{1 / k:.2g}" for k in place.zoom)
    return Finding(
        "scale",
        exam.name,
        exam.label,
        f"the label is about {times} times as large as what it labels (x, y, z)",
        "likely",
        "resample the label to the image's grid from its own spacing, or make it again",
    )


def _shift(exam: Exam, offset: tuple[float, ...], better: float, now: float) -> Finding:
    x, y, z = (round(o) for o in offset)
    return Finding(
        "shift",
        exam.name,
        exam.label,
        f"the label lies beside what it labels: moved by {x}, {y}, {z} voxels along x, y, z (RAS+) it fits "
        f"better (agreement {better:.2f}, now {now:.2f})",
        "likely",
        "mend the origin of one of the two, or move the label",
    )
