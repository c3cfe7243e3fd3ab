"""What a limit of time costs of Dice, by the short trainings in which plans were tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medfuse.planning.trials import LEARNED, Rung, Trials

if TYPE_CHECKING:
    from medfuse.report.intervals import Interval


@dataclass(frozen=True)
class Loss:
    """Of Dice, in the mean over inner held-out cases, against plan `against`; `steps` of both trainings.

    `trainings`: of each, by whose chances the interval is as well as by cases.

    `interval` is None where the plan is the better of those that there are without the limit.
    """

    against: int
    steps: tuple[int, int]
    interval: Interval | None = None
    trainings: int = 1

    def values(self) -> dict[str, Any]:
        found = self.interval
        if found is None:
            return {"dice": 0.0}
        return {
            "dice": found.value,
            "low": found.low,
            "high": found.high,
            "cases": found.cases,
            "trainings": self.trainings,
        }


def expected_loss(
    trials: Trials, plan: int, free: Sequence[int], patient_of: Mapping[str, str]
) -> Loss | str:
    """What plan number `plan` loses against the best of the `free` ones, which there are without a limit.

    They are paired over the cases by which both were judged in the same rung, or in each of those that were
    repeated. In words, why nothing is known, where that is so.
    """
    from medfuse.report.intervals import mean_interval

    alike = _alike(trials, plan, free)
    known = [number for number in free if number in alike]
    if plan not in alike or not known:
        return "nothing was measured of the Dice that it costs"
    longest = max(alike[number][-1].seconds for number in known)
    tried = [number for number in known if alike[number][-1].seconds == longest]
    against = max(tried, key=lambda number: _dice(alike[number]))
    own, best = alike[plan], alike[against]
    steps = own[-1].steps, best[-1].steps
    if against == plan:
        return Loss(plan, steps)
    if max(_dice(own), _dice(best)) < LEARNED:
        return "short trainings had learned too little to tell the Dice that it costs"
    both = [name for name in own[0].cases if all(name in rung.cases for rung in (*own, *best))]
    if own[-1].seconds != longest or len(own) != len(best) or not both:
        return (
            "it was not tried beside the plan without a limit, so nothing is known of the Dice that it costs"
        )
    found = mean_interval(
        [[theirs.cases[name] - its.cases[name] for its, theirs in zip(own, best)] for name in both],
        [patient_of.get(name, name) for name in both],
        bounds=(-1.0, 1.0),
    )
    assert found is not None
    return Loss(against, steps, found, len(own))


def _alike(trials: Trials, plan: int, free: Sequence[int]) -> dict[int, Sequence[Rung]]:
    """The rungs of plans that were trained as `plan` was at last: all repeated ones, else the last."""
    rungs = {number: [rung for rung in trials.rungs if rung.candidate == number] for number in (plan, *free)}
    repeated = any(rung.repeat for rung in rungs[plan])
    found = {number: [r for r in some if bool(r.repeat) == repeated] for number, some in rungs.items()}
    return {number: some if repeated else some[-1:] for number, some in found.items() if some}


def _dice(rungs: Sequence[Rung]) -> float:
    return sum(rung.dice for rung in rungs) / len(rungs)
