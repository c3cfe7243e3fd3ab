"""What is said of a case that nobody judged: its scores, expected Dice and bound, and why to look at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medfuse.quality.calibration import ClassCalibration
from medfuse.quality.conformal import FEWEST
from medfuse.quality.fit import Known
from medfuse.quality.grain import NAME as GRAIN
from medfuse.quality.scores import BY_NAME, Scores, rounded
from medfuse.quality.usual import UsualNumbers, UsualVolume

SHIFTED = 1.5
"""Times the distance of the farthest case of training from which a case is of another kind."""
_BEYOND = 1.25  # times the index of the worst judged case
_VERY_ODD = 4.0  # deviations of a volume
_USUALLY = 0.95  # of the cases of training, that have a class which is then missed
_NAMED = 3

_KINDS = {"spacing": "spacing", "field_of_view": "field of view", "intensities": "intensities"}


@dataclass(frozen=True)
class Judgement:
    """Of a class in a case. `lower`: in LEVEL of such cases Dice is that or more; None where no bound holds.

    `look`: whether somebody should look at it, and `reasons` for that, and for a bound that is missing.
    """

    expected: float | None = None
    lower: float | None = None
    look: bool = False
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judge:
    """volumes: what is usual in training, by class. calibration: by class, of what the same networks did on
    cases that they had not seen. no_bound: why its bounds do not hold here; empty where they do. grain: what
    is usual of the images of those cases."""

    volumes: Mapping[str, UsualVolume] = field(default_factory=dict)
    calibration: Mapping[str, ClassCalibration] = field(default_factory=dict)
    no_bound: str = ""
    grain: UsualNumbers | None = None

    def of_case(
        self, found: Mapping[str, Scores], distances: Mapping[str, float | None]
    ) -> dict[str, Judgement]:
        """Class → what is said of it."""
        return {name: self._of_class(name, scores, distances) for name, scores in found.items()}

    def entry(
        self, found: Mapping[str, Scores], distances: Mapping[str, float | None]
    ) -> dict[str, dict[str, object]]:
        """Class → its scores and what is said of it, as a manifest has them."""
        said = self.of_case(found, distances)
        return {name: {**rounded(scores), **_written(said[name])} for name, scores in found.items()}

    def _of_class(self, name: str, scores: Scores, distances: Mapping[str, float | None]) -> Judgement:
        shifts = shifts_of(distances)
        if not scores.get("volume_ml"):
            missed = self._missed(name)
            return Judgement(None, None, bool(missed or shifts), (*missed, *shifts))
        known = self.calibration.get(name)
        odd = _odd(scores) if known is None else ()
        if known is None:
            return Judgement(None, None, bool(odd or shifts), (*shifts, *odd))
        row = {**scores, **distances}
        return self._calibrated(known, row, shifts, rough_of(distances, self.grain))

    def _calibrated(
        self, known: ClassCalibration, row: Known, shifts: Sequence[str], rough: Sequence[str]
    ) -> Judgement:
        """`rough` leaves no bound, but is no reason to look: noise that a network bears costs little Dice."""
        expected = float(known.expected([row])[0])
        odd = _beyond(known, row)
        bounds = known.lower([row])
        why = f"{known.groups} judged cases, and {FEWEST} are needed" if bounds is None else self.no_bound
        missing = (f"no bound: {why}",) if why else ()
        low = expected < known.low
        named = _worse_than_usual(known, row) if low or odd else ()
        holds = bounds is not None and not (shifts or rough or odd or self.no_bound)
        return Judgement(
            expected,
            float(bounds[0]) if holds and bounds is not None else None,
            bool(low or odd or shifts),
            (*shifts, *rough, *odd, *named, *missing),
        )

    def _missed(self, name: str) -> tuple[str, ...]:
        """Why it is odd that a class is nowhere; nothing where it often is."""
        usual = self.volumes.get(name)
        if usual is None or not usual.cases or usual.present < _USUALLY * usual.cases:
            return ()
        return (f"is nowhere; {usual.present} of {usual.cases} cases of training have it",)


def shifts_of(distances: Mapping[str, float | None]) -> tuple[str, ...]:
    """In how far a case is of another kind than those of training, so that no bound holds."""
    return tuple(
        f"{kind} {value:.3g} times as far from the middle of training as its farthest case"
        for name, kind in _KINDS.items()
        if (value := distances.get(name)) is not None and value > SHIFTED
    )


def rough_of(distances: Mapping[str, float | None], grain: UsualNumbers | None) -> tuple[str, ...]:
    """In how far its image is noisier, or more blurred, than those that were judged."""
    rough = distances.get(GRAIN)
    if grain is None or rough is None or (far := grain.score([rough]) or 0.0) <= SHIFTED:
        return ()
    kind = "noisier" if rough > grain.middle[0] else "more blurred"
    return (f"{kind} than those that were judged, {far:.3g} times as far from their middle as any",)


def _beyond(known: ClassCalibration, row: Known) -> tuple[str, ...]:
    """In how far it is worse than anything that was judged, so that no bound holds."""
    found = []
    index, worst = known.fit.index(row), known.fit.worst
    if index > worst + (_BEYOND - 1) * abs(worst) + 1e-9:
        found.append("its scores are worse than any that were judged")
    swapped = known.fit.scores.get("swapped")
    if row.get("swapped") and swapped is not None and swapped.mean < 0.5:
        found.append("left and right are exchanged")
    return tuple(found)


def _odd(scores: Known) -> tuple[str, ...]:
    """What is odd by itself, without any case that was judged."""
    found = []
    if (volume := scores.get("volume")) is not None and abs(volume) > _VERY_ODD:
        found.append(f"volume {volume:+.1f} deviations from the mean of training")
    if scores.get("swapped"):
        found.append("left and right are exchanged")
    return tuple(found)


def _worse_than_usual(known: ClassCalibration, row: Known) -> tuple[str, ...]:
    """The scores that are farthest from those of judged cases, in the bad direction."""
    off = {name: one.deviations(name, row.get(name)) for name, one in known.fit.scores.items() if one.weight}
    off = {name: deviations for name, deviations in off.items() if deviations > 1}
    worst = sorted(off, key=lambda name: -off[name])[:_NAMED]
    return tuple(f"{name} {row[name]:.3g} ({BY_NAME[name].words})" for name in worst)


def _written(said: Judgement) -> dict[str, object]:
    numbers = {"expected": said.expected, "lower": said.lower}
    known = rounded({name: value for name, value in numbers.items() if value is not None})
    return {**known, "look": said.look, "reasons": "; ".join(said.reasons)}
