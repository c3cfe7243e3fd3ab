"""Cases that are turned round against the others, and labels that are turned round against their image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from medfuse.data.doctor.atlas import FLIPS, NO_FLIP, Flip
from medfuse.data.doctor.cut import ends_oddly
from medfuse.data.doctor.exam import Exam
from medfuse.data.doctor.finding import Finding
from medfuse.data.doctor.group import FITS, Group
from medfuse.data.doctor.spread import Spread

_FAR = 5.0
_CLEAR = 2.5
_LEAST = 0.05
_SAME = 0.05
_AXES = ("left and right", "back and front", "foot and head")


def look(group: Group) -> Iterator[Finding]:
    """By what a case would agree with better turned round, along axes along which the others are not alike.

    Where the border of a label lies on edges, both are turned round together; else one of them is.
    """
    if group.atlas is None:
        return
    for number, exam in enumerate(group.framed):
        label, told = _preferred(group.labels, group.usual_labels, number)
        image, seen = _preferred(group.images, group.usual_image, number) if group.is_alike else (0, {0})
        if label and image and group.images[number, label] > group.images[number, image] - _SAME:
            image = label  # the anatomy is much the same along the axis by which they differ
        if not label and not (image and image not in told):
            continue
        if label and group.relabelled(number) >= group.labels[number, label]:
            continue  # labels were exchanged, as `permuted` tells
        if ends_oddly(group, exam, NO_FLIP) and ends_oddly(group, exam, FLIPS[label or image]):
            continue  # it was cut off, as `cut` tells
        on_edges = not group.is_off_edges(exam)
        if image and image == (label or image) and on_edges:
            yield _orientation(exam, FLIPS[image], group.images[number, 0], group.images[number, image])
        elif label and on_edges and label not in seen:
            yield _orientation(exam, FLIPS[label], group.labels[number, 0], group.labels[number, label])
        else:
            yield flip_finding(exam, FLIPS[label or image])


def _preferred(agreements: npt.NDArray[np.float64], usual: Spread, number: int) -> tuple[int, set[int]]:
    """The flip that a case prefers and hardly any other does, under which it is like the others; 0 for none.

    And those that can be told from none: where anatomy is much the same both ways nothing is.
    """
    gains = agreements - agreements[:, :1]
    best, told = 0, set[int]()
    for k in range(1, len(FLIPS)):
        spread = Spread.of(gains[:, k], floor=0.02)
        if spread.middle + _CLEAR * spread.sigma >= 0:
            continue
        told.add(k)
        fits = usual.away(agreements[number, k]) > -FITS
        if (
            fits
            and gains[number, k] > max(_LEAST, gains[number, best])
            and spread.away(gains[number, k]) > _FAR
        ):
            best = k
    return best, told


def _orientation(exam: Exam, flip: Flip, now: float, then: float) -> Finding:
    return Finding(
        "orientation",
        exam.name,
        exam.image,
        f"image and label together are turned round along {axes(flip)}: so they agree with the other "
        f"cases by {then:.2f}, as they are by {now:.2f}",
        "likely",
        "mend the orientation in both headers",
    )


def flip_finding(exam: Exam, flip: Flip) -> Finding:
    return Finding(
        "flip",
        exam.name,
        exam.label,
        f"image and label are turned round against each other along {axes(flip)}",
        "likely",
        "turn one of the two round, or mend its header",
    )


def axes(flip: Flip) -> str:
    return " and ".join(name for name, turned in zip(_AXES, flip) if turned)
