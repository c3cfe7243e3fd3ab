"""Labels that stand for one another in some cases: left for right, or any other."""

from __future__ import annotations

import re
from collections.abc import Iterator

from medfuse.data.doctor.finding import Finding
from medfuse.data.doctor.group import Group
from medfuse.data.doctor.spread import Spread

Exchanges = list[dict[int, int]]
"""Of each framed case, which label stands for which."""
_VOXELS = 0.08
_GAIN = 0.15
_TURNED = 0.02
_FAR = 5.0
_SIDE = re.compile(r"(^|[^a-z])(left|right|l|r)([^a-z]|$)", re.IGNORECASE)


def look(group: Group) -> Iterator[Finding]:
    """By where the labels of a case are, held against where the others have theirs."""
    if group.atlas is None or len(group.atlas.values) < 3:
        return
    for number, (exam, many, alike) in enumerate(zip(group.framed, _by_voxels(group), _by_shape(group))):
        swaps = many or alike
        if not swaps or group.labels[number].max() > group.relabelled(number) + _TURNED:
            continue
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


def _by_voxels(group: Group) -> Exchanges:
    """Of each case, what most of its labelled voxels say."""
    gains = [group.relabelled(n) - group.labels[n, 0] for n in range(len(group.framed))]
    usual = Spread.of(gains, floor=0.01)
    far = [gain >= _VOXELS and usual.away(gain) >= _FAR for gain in gains]
    return [group.exchanged(n) if odd else {} for n, odd in enumerate(far)]


def _by_shape(group: Group) -> Exchanges:
    """The same where each label counts alike, so that small ones are seen beside large ones."""
    usual = Spread.of([one.gain for one in group.exchanges], floor=0.02)
    return [one.of if one.gain >= _GAIN and usual.away(one.gain) >= _FAR else {} for one in group.exchanges]
