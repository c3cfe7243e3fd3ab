"""Labels that stand for one another in some cases: left for right, or any other."""

from __future__ import annotations

import re
from collections.abc import Iterator

from medfuse.data.doctor.finding import Finding
from medfuse.data.doctor.group import Group
from medfuse.data.doctor.spread import Spread

_GAIN = 0.08
_FAR = 5.0
_SIDE = re.compile(r"(^|[^a-z])(left|right|l|r)([^a-z]|$)", re.IGNORECASE)


def look(group: Group) -> Iterator[Finding]:
    """By where the labels of a case are, held against where the others have theirs."""
    if group.atlas is None or len(group.atlas.values) < 3:
        return
    gains = [group.relabelled(n) - group.labels[n, 0] for n in range(len(group.framed))]
    usual = Spread.of(gains, floor=0.01)
    for number, (exam, gain) in enumerate(zip(group.framed, gains)):
        flips = group.labels[number].max()
        if gain < _GAIN or usual.away(gain) < _FAR or flips > group.relabelled(number) + 0.02:
            continue
        swaps = {own: other for own, other in group.exchanged(number).items() if own != other}
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
