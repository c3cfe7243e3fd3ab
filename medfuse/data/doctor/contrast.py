"""Images whose contrast is not that of the others: inverted, of another modality, or of another patient."""

from __future__ import annotations

from collections.abc import Iterator

from medfuse.data.doctor.finding import Finding
from medfuse.data.doctor.group import FITS, Group

_FAR = 5.0
_HALF = 0.6
"""Of the usual agreement, below which nothing of the contrast is that of the others."""


def inverted(group: Group) -> Iterator[Finding]:
    """Those that are as unlike the others as the others are alike."""
    for number, exam in enumerate(group.framed if group.is_alike else ()):
        if group.usual_image.away(-group.images[number, 0]) > -FITS and group.images[number, 0] < -0.2:
            what, remedy = "bright is dark: its contrast is that of the others inverted", "invert its values"
            yield Finding("inverted", exam.name, exam.image, what, "likely", f"{remedy} (MONOCHROME1?)")


def unlike(group: Group) -> Iterator[Finding]:
    """Those that are like the others neither as they are nor moved."""
    for number, exam in enumerate(group.framed if group.is_alike else ()):
        now, usual = float(group.images[number, 0]), group.usual_image
        if usual.away(now) > -_FAR or now > _HALF * usual.middle:
            continue
        how = f"(agreement {now:.2f}, usually {usual.middle:.2f})"
        if group.is_off_edges(exam):
            what = f"the image around its label is unlike the others' {how}, and the label lies on no edges"
            remedy = "look whether they are of one patient, and the image of the same modality"
            yield Finding("unfit", exam.name, exam.label, what, "likely", remedy)
        else:
            what = f"its contrast is unlike the others' {how}, though its label lies on its edges"
            remedy = "look whether it is of another modality, phase or sequence, and leave it out"
            yield Finding("modality", exam.name, exam.image, what, "likely", remedy)
