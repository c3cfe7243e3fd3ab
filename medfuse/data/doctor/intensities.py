"""Cases whose modality is another one by DICOM, or whose values are spread as no other's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from medfuse.data.doctor.finding import Finding
from medfuse.data.doctor.group import Group
from medfuse.data.doctor.spread import FEW, Spread
from medfuse.data.profile import SHAPES, shape_of
from medfuse.volumes.dicom.origins import place_of

_FAR = 12.0
_LEAST = 0.5


def look(group: Group) -> Iterator[Finding]:
    yield from _modalities(group)
    yield from _spread(group)


def _modalities(group: Group) -> Iterator[Finding]:
    """Of the files of a channel, those that name another modality than most."""
    for number in range(max((len(facts.modalities) for facts in group.facts), default=0)):
        said = {f.name: f.modalities[number] for f in group.facts if number < len(f.modalities)}
        counts = Counter(filter(None, said.values()))
        if len(counts) < 2:
            continue
        usual, _ = counts.most_common(1)[0]
        for exam in group.exams:
            now = said.get(exam.name, "")
            if now and now != usual:
                what = f"its modality is {now}, and {usual} in {counts[usual]} cases"
                file = place_of(exam.case.images[number])
                yield Finding("modality", exam.name, file, what, "certain", "leave it out")


def _spread(group: Group) -> Iterator[Finding]:
    told = set()
    for number, channel in enumerate(group.info.channels):
        shapes = {
            f.name: s
            for f in group.facts
            if len(f.percentiles) > number
            if (s := shape_of(f.percentiles[number]))
        }
        if len(shapes) < FEW:
            continue
        for n, what in enumerate(SHAPES):
            usual = Spread.upper([s[n] for s in shapes.values()], floor=0.08)
            for exam in group.exams:
                own = shapes.get(exam.name)
                if own is None or exam.name in told:
                    continue
                if abs(own[n] - usual.middle) > _LEAST and abs(usual.away(own[n])) > _FAR:
                    told.add(exam.name)
                    yield Finding(
                        "outlier",
                        exam.name,
                        exam.image,
                        f"intensities of {channel} are spread as in no other case: {what} is {own[n]:.3g}, "
                        f"usually {usual.middle:.3g}",
                        "possible",
                        "look for metal, a spike, a burnt-in number, or another kind of image",
                    )
