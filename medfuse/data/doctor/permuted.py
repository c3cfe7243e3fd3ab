"""Labels that stand for one another in some cases: left for right, or any other."""

from __future__ import annotations

import re
from collections.abc import Iterator

from medfuse.data.doctor.finding import Finding
from medfuse.data.doctor.group import Group
from medfuse.data.doctor.spread import Spread

_GAIN = 0.15
_TURNED = 0.02
_FAR = 5.0
_SIDE = re.compile(r"(^|[^a-z])(left|right|l|r)([^a-z]|$)", re.IGNORECASE)


def look(group: Group) -> Iterator[Finding]:
    """By where the labels of a case are, held against where the others have theirs."""
    if group.atlas is None or len(group.atlas.values) < 3:
        return
    usual = Spread.of([one.gain for one in group.exchanges], floor=0.02)
    for number, (exam, one) in enumerate(zip(group.framed, group.exchanges)):
        flips = group.labels[number].max()
        if one.gain < _GAIN or usual.away(one.gain) < _FAR or flips > group.relabelled(number) + _TURNED:
            continue
        swaps = one.of
        told = ", ".join(f"{group.name_of(own)} for {group.name_of(other)}" for own, other in swaps.items())
        sides = all(_SIDE.search(group.name_of(own)) for own in swaps)
        yield Finding(
            "left_right" if sides and swaps else "permuted",
            exam.name,
            exam.label,
            f"its labels lie where the other cases have others: {told}",
            "likely",
            "exchange the values in this label map",
        )
