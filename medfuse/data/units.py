"""Channels whose values are in other units from case to case, told from their ends and medians."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from medfuse.core.text import listed
from medfuse.data.fingerprint import CaseFacts
from medfuse.data.plan import Normalization, is_ct

AIR_HU = -900.0
"""No other modality goes down to it in most cases."""
FAT_HU = -100.0
"""Every CT that shows fat or air goes down to it."""
NEVER_BELOW = -24.0
"""HU + 1024 of air, and its noise."""
DENSE = 800.0
"""Shifted by 1024 all tissue is above it but lung and fat."""
NARROW = 50.0
"""Fewer values than this from least to most are a scale of 0 to 1 or of standard deviations."""
BYTE, STRETCHED = 255.0, 250.0
"""The most of a byte, and about the most of values that were stretched to all of it."""
SHIFTED = 500.0
"""By which a shift moves the median in the foreground, at least: half of the 1024, the rest is anatomy."""
FAR = 100.0
"""Times that ranges differ in other units: those of MR scanners with their gains differ by ten or twenty."""
FAR_MEDIANS = 10.0
"""Times that medians then differ at least; where they do not, a few bright voxels made the range."""
_NAMED = 3


def units(
    cases: Sequence[CaseFacts], channels: Sequence[str], normalization: Sequence[Normalization] = ()
) -> Iterator[str]:
    """A line for each such channel, with what its `normalization` makes of it; that of `auto` where empty."""
    for number, name in enumerate(channels):
        measured = [case for case in cases if number < len(case.intensities)]
        fixed = normalization[number].is_fixed if normalization else is_ct(name)
        hounsfield = is_ct(name) or mostly_air(measured, number)
        line = (_mixed_ct(measured, number) if hounsfield else "") or _far_apart(measured, number)
        if not line:
            continue
        if fixed:
            yield (
                f"warning: {name} is in other units from case to case: {line}; all are scaled by the same "
                "numbers, so these look like other tissue: bring them to the units of the others, or scale "
                "each volume by its own (`preprocess: {normalize: zscore}`)"
            )
        else:
            yield (
                f"note: {name} is in other units from case to case: {line}; each volume is scaled by its own "
                "numbers, which makes up for it unless values mean something by themselves, as in "
                "PET or ADC: give those in one unit"
            )


def mostly_air(cases: Sequence[CaseFacts], channel: int) -> bool:
    """Whether a channel is CT whatever it is called."""
    return 2 * sum(case.intensities[channel][0] <= AIR_HU for case in cases) > len(cases)


def _mixed_ct(cases: Sequence[CaseFacts], channel: int) -> str:
    """Kinds of units with their cases, where there are several."""
    found = ct_kinds(cases, channel)
    return _told(found, cases, channel) if len(found) > 1 else ""


def ct_kinds(cases: Sequence[CaseFacts], channel: int) -> dict[str, list[CaseFacts]]:
    """The units of a channel of CT, in words, and the cases that have them; some do not say."""
    kinds: dict[str, list[CaseFacts]] = {}
    for case in cases:
        if kind := _ct_kind(*case.intensities[channel]):
            kinds.setdefault(kind, []).append(case)
    if HOUNSFIELD in kinds and _SHIFTED in kinds:
        there = _median(kinds[HOUNSFIELD], channel)
        kinds[_SHIFTED] = [
            case
            for case in kinds[_SHIFTED]
            if there is None or not case.medians or case.medians[channel] - there >= SHIFTED
        ]
    if _BYTE in kinds and HOUNSFIELD not in kinds:  # a brain without its skull has no more in truth
        kinds[_BYTE] = [case for case in kinds[_BYTE] if case.intensities[channel][1] >= STRETCHED]
    return {kind: those for kind, those in kinds.items() if those}


HOUNSFIELD, _SHIFTED = "Hounsfield units", "nothing below 0, as if 1024 were added"
_BYTE, _NARROW = "a byte's scale", "a scale of its own"


def _ct_kind(least: float, most: float) -> str:
    """What the ends say plainly of a CT's units; empty where they do not."""
    if most - least <= NARROW:
        return _NARROW
    if least >= 0 and most <= BYTE:
        return _BYTE
    if least >= NEVER_BELOW and most >= DENSE:
        return _SHIFTED
    return HOUNSFIELD if least <= FAT_HU else ""


def _median(cases: Sequence[CaseFacts], channel: int) -> float | None:
    """The middle one of the cases' medians."""
    known = sorted(case.medians[channel] for case in cases if case.medians)
    return known[len(known) // 2] if known else None


def _told(kinds: Mapping[str, Sequence[CaseFacts]], cases: Sequence[CaseFacts], channel: int) -> str:
    parts = []
    for kind, those in sorted(kinds.items(), key=lambda item: -len(item[1])):
        names = listed([case.name for case in those], _NAMED)
        of_first = f" in {those[0].name}" if len(those) > 1 else ""
        ends = _ends(those[0], channel) + of_first
        parts.append(f"{kind} in {len(those)} of {len(cases)} ({names}; {ends})")
    return ", ".join(parts)


def _far_apart(cases: Sequence[CaseFacts], channel: int) -> str:
    """The two ends, where values reach many times further in one case than in another."""
    measured = [case for case in cases if _range(case, channel) > 0]
    low = min(measured, key=lambda case: _range(case, channel), default=None)
    far = [case for case in measured if low and _is_far(case, low, channel)]
    if not low or not far:
        return ""
    high = max(far, key=lambda case: _range(case, channel))
    return f"{_ends(low, channel)} in {low.name}, {_ends(high, channel)} in {high.name}"


def _is_far(high: CaseFacts, low: CaseFacts, channel: int) -> bool:
    """By range and by median, where that is known: bright voxels move the one, values around 0 the other."""
    if _range(high, channel) < FAR * _range(low, channel):
        return False
    if not (high.medians and low.medians):
        return True
    return abs(high.medians[channel]) >= FAR_MEDIANS * abs(low.medians[channel])


def _range(case: CaseFacts, channel: int) -> float:
    least, most = case.intensities[channel]
    return most - least


def _ends(case: CaseFacts, channel: int) -> str:
    least, most = case.intensities[channel]
    return " to ".join(f"{end:,.0f}" if abs(end) >= 1000 else f"{end:.4g}" for end in (least, most))
