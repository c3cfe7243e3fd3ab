"""What is usual among the cases of a plan (see quality.usual), and how far from it another case is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

from medfuse.core.geometry import Geometry
from medfuse.core.labels import LabelValue
from medfuse.data.fingerprint import CaseFacts, Fingerprint
from medfuse.data.profile import Profile, shape_of
from medfuse.data.seen import extent
from medfuse.quality.usual import Usual, UsualNumbers, UsualVolume

_SPACING, _FIELD = log(1.1), log(1.25)  # the least deviations that count as one
_OF_SPAN = 0.05  # of the range of all values, for channels that are scaled by fixed numbers
_OF_SHAPES = (0.05, 0.25, 0.25)  # of profile.SHAPES, for the others


def usual_of(fingerprint: Fingerprint, labels: Mapping[str, LabelValue], are_fixed: Sequence[bool]) -> Usual:
    """Of all cases of a fingerprint; of intensities where each case tells its own.

    are_fixed: of each channel, whether it is scaled by numbers that are the same for each volume.
    """
    cases = fingerprint.cases
    volumes = {
        name: UsualVolume.of([case.volumes_ml.get(name, 0.0) for case in cases])
        for name, value in labels.items()
        if value != 0
    }
    grids = [_grid(case.shape, case.spacing_mm) for case in cases]
    numbers = {
        kind: UsualNumbers.of([grid[kind] for grid in grids], [floor] * 3)
        for kind, floor in (("spacing", _SPACING), ("field_of_view", _FIELD))
    }
    rows = [_intensities(case.percentiles, are_fixed) for case in cases]
    if all(rows):
        numbers["intensities"] = UsualNumbers.of(rows, _floors(cases, are_fixed))
    return Usual(volumes, numbers)


def distances(
    usual: Usual, geometry: Geometry, profiles: Sequence[Profile], are_fixed: Sequence[bool]
) -> dict[str, float | None]:
    """Kind → how far a case is from what is usual, 1 for the farthest of training; None where it is not
    known. `profiles`: of each channel, as it was read."""
    rows = _grid(geometry.ras_shape, geometry.ras_spacing_mm) if geometry.spaced else {}
    if profiles:
        rows["intensities"] = _intensities(profiles, are_fixed)
    return usual.distances(rows)


def _grid(shape: Sequence[int], spacing_mm: Sequence[float]) -> dict[str, list[float]]:
    return {
        "spacing": [log(mm) for mm in spacing_mm],
        "field_of_view": [log(mm) for mm in extent(shape, spacing_mm)],
    }


def _intensities(profiles: Sequence[Profile], are_fixed: Sequence[bool]) -> list[float]:
    """Percentiles where a channel is scaled by fixed numbers, else what is the same in any unit; nothing
    where some channel has none, as one of a single value."""
    channels = [one if fixed else shape_of(one) for one, fixed in zip(profiles, are_fixed)]
    complete = len(channels) == len(are_fixed) and all(channels)
    return [number for one in channels for number in one] if complete else []


def _floors(cases: Sequence[CaseFacts], are_fixed: Sequence[bool]) -> list[float]:
    floors: list[float] = []
    for channel, fixed in enumerate(are_fixed):
        own = [case.percentiles[channel] for case in cases]
        if fixed:
            span = max(one[-1] for one in own) - min(one[0] for one in own)
            floors += [max(_OF_SPAN * span, 1e-6)] * len(own[0])
        else:
            floors += _OF_SHAPES
    return floors
