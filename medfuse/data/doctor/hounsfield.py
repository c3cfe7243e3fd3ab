"""CT whose values are no Hounsfield units: shifted by 1024, scaled, or wrapped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from medfuse.data.doctor.finding import Finding
from medfuse.data.doctor.group import Group
from medfuse.data.doctor.spread import FEW, Spread
from medfuse.data.fingerprint import CaseFacts
from medfuse.data.plan import is_ct
from medfuse.data.units import HOUNSFIELD, SHIFTED, ct_kinds, mostly_air
from medfuse.volumes.dicom.origins import place_of

_WRAPPED = 60_000.0
"""No scanner has so much; -1024 as an unsigned number of 16 bits is 64,512."""
_REMEDIES = {
    "wrapped": "read it as signed numbers (subtract 65,536 from what is above 32,767)",
    "shifted": "subtract 1024, or set its rescale intercept",
    "other": "export it again in Hounsfield units",
}


def wrapped(group: Group) -> Iterator[Finding]:
    """Negative values that are large ones."""
    for number, cases, files in _channels(group):
        for facts in cases:
            if facts.intensities[number][0] >= 0 and facts.intensities[number][1] >= _WRAPPED:
                yield _finding(facts, number, files, "as if negative values had wrapped", "wrapped")


def look(group: Group) -> Iterator[Finding]:
    """Other scales."""
    for number, cases, files in _channels(group):
        told = set()
        for kind, those in ct_kinds(cases, number).items():
            for facts in those if kind != HOUNSFIELD else ():
                told.add(facts.name)
                yield _finding(facts, number, files, kind, "shifted" if "1024" in kind else "other")
        yield from _far(cases, number, files, told)


def _channels(group: Group) -> Iterator[tuple[int, list[CaseFacts], dict[str, str]]]:
    """Those that are CT: their number, cases and files."""
    for number, channel in enumerate(group.info.channels):
        cases = [facts for facts in group.facts if number < len(facts.intensities)]
        if is_ct(channel) or mostly_air(cases, number):
            files = {exam.name: exam.case.images for exam in group.exams}
            yield number, cases, {name: place_of(f[min(number, len(f) - 1)]) for name, f in files.items()}


def _far(
    cases: Sequence[CaseFacts], number: int, files: Mapping[str, str], told: set[str]
) -> Iterator[Finding]:
    """By what is labelled: shifted ones whose padding is that of others."""
    medians = {facts.name: facts.medians[number] for facts in cases if facts.medians}
    if len(medians) < FEW:
        return
    usual = Spread.of([*medians.values()], floor=20)
    for facts in cases:
        off = medians.get(facts.name, usual.middle) - usual.middle
        if abs(off) >= max(SHIFTED, 5 * usual.sigma) and facts.name not in told:
            what = f"what is labelled has {medians[facts.name]:.0f} in the median, usually {usual.middle:.0f}"
            yield _finding(facts, number, files, what, "shifted")


def _finding(facts: CaseFacts, number: int, files: Mapping[str, str], kind: str, way: str) -> Finding:
    least, most = facts.intensities[number]
    return Finding(
        "not_hu",
        facts.name,
        files[facts.name],
        f"its values are no Hounsfield units: {least:.4g} to {most:.4g}, {kind}",
        "likely",
        _REMEDIES[way],
    )
