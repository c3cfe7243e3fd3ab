"""What is said of a plan that keeps to a time per scan: the time, and the Dice it is expected to cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medfuse.core.text import duration
from medfuse.planning.loss import Loss, expected_loss
from medfuse.planning.timed import Within

if TYPE_CHECKING:
    from medfuse.planning.candidates import Candidate
    from medfuse.planning.trials import Trials


@dataclass(frozen=True)
class Timing:
    """What is said of a plan's time, and of its Dice: lines, and the same as values."""

    lines: tuple[str, ...]
    values: dict[str, Any]


def timing(within: Within, number: int, trials: Trials, patient_of: Mapping[str, str]) -> Timing:
    """Of plan number `number` of those within."""
    plan = within.all[number]
    assert plan.scan is not None
    values: dict[str, Any] = {
        "limit": within.limit,
        "binds": within.binds,
        "median": plan.scan.median,
        "nine_in_ten": plan.scan.ninth,
        "largest": plan.scan.largest,
        "network": plan.scan.windows,
        "overlap": plan.overlap,
        "spacing_mm": plan.plan.spacing_mm,
    }
    lines = [about_scan(within, plan)]
    if within.binds:
        loss = expected_loss(trials, number, within.free, patient_of)
        values["loss"] = None if isinstance(loss, str) else loss.values()
        lines.append(about_loss(within, loss))
    return Timing(tuple(lines), values)


def about_scan(within: Within, plan: Candidate) -> str:
    """What a scan is expected to take with a plan, in a sentence or two."""
    scan, limit = plan.scan, within.limit
    assert scan is not None
    takes = (
        f"{duration(scan.median)} for the median scan ({duration(scan.windows)} in the network, "
        f"{duration(scan.around)} to read, resample and write), {duration(scan.largest)} for the largest, "
        "beyond what starting takes, on this machine"
    )
    if within.binds:
        return f"Planned for {limit:g} s a scan: about {takes}."
    return f"{limit:g} s a scan do not bind: it takes about {takes}."


def about_loss(within: Within, loss: Loss | str) -> str:
    """What a plan within a limit that binds is expected to cost of Dice, in a sentence or two."""
    if isinstance(loss, str):
        return f"{loss[0].upper()}{loss[1:]}."
    other = within.all[loss.against]
    if loss.interval is None:
        return "It is also the best of the plans that there are without the limit, as far as trials tell."
    found = loss.interval
    assert other.scan is not None
    judged = f"{found.cases} training case{'s' * (found.cases != 1)} kept apart"
    what = "cost" if found.value >= 0 else "gain"
    low, high = (found.low, found.high) if found.value >= 0 else (_minus(found.high), _minus(found.low))
    limits = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    level = "" if low is None else f"{100 * found.level:.3g} %, "
    once = loss.trainings == 1
    trained = "one short training of each" if once else f"{loss.trainings} short trainings of each"
    unseen = "other seeds and longer trainings" if once else "longer trainings"
    return (
        f"Expected to {what} {abs(found.value):.3f} Dice{limits} ({level}{judged}) against the plan without "
        f"the limit ({other}), by {trained}, of {loss.steps[0]:,} and {loss.steps[1]:,} steps; {unseen} may "
        "tell otherwise."
    )


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
