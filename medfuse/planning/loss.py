"""What a limit of time costs of Dice, by the short trainings in which plans were tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medfuse.planning.trials import LEARNED, Trials

if TYPE_CHECKING:
    from medfuse.report.intervals import Interval


@dataclass(frozen=True)
class Loss:
    """Of Dice, in the mean over inner held-out cases, against plan `against`; `steps` of both trainings.

    `interval` is None where the plan is the better of those that there are without the limit.
    """

    against: int
    steps: tuple[int, int]
    interval: Interval | None = None

    def values(self) -> dict[str, Any]:
        found = self.interval
        if found is None:
            return {"dice": 0.0}
        return {"dice": found.value, "low": found.low, "high": found.high, "cases": found.cases}


def expected_loss(
    trials: Trials, plan: int, free: Sequence[int], patient_of: Mapping[str, str]
) -> Loss | str:
    """What plan number `plan` loses against the best of the `free` ones, which there are without a limit.

    They are paired over the cases by which both were judged in the same rung. In words, why nothing is known,
    where that is so.
    """
    from medfuse.report.intervals import mean_interval

    own = trials.last(plan)
    rungs = [(rung, number) for number in free if (rung := trials.last(number))]
    if own is None or not rungs:
        return "nothing was measured of the Dice that it costs"
    longest = max(rung.seconds for rung, _ in rungs)
    best, against = max(
        ((rung, number) for rung, number in rungs if rung.seconds == longest), key=lambda one: one[0].dice
    )
    steps = own.steps, best.steps
    if against == plan:
        return Loss(plan, steps)
    if max(own.dice, best.dice) < LEARNED:
        return "short trainings had learned too little to tell the Dice that it costs"
    both = [name for name in own.cases if name in best.cases]
    if abs(own.seconds - best.seconds) > 0.05 * longest or not both:
        return (
            "it was not tried beside the plan without a limit, so nothing is known of the Dice that it costs"
        )
    found = mean_interval(
        [best.cases[name] - own.cases[name] for name in both],
        [patient_of.get(name, name) for name in both],
        bounds=(-1.0, 1.0),
    )
    assert found is not None
    return Loss(against, steps, found)
