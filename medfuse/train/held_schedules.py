"""Anybody's schedules, held to their contract: over whole courses before training, and at each step of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from medfuse.api import AuxSchedule
from medfuse.core.errors import MedfuseError, Path, PluginError, Problem, reason
from medfuse.registry import blame
from medfuse.train.held import Wrong, hold_loss, inside

log = logging.getLogger(__name__)

_STEPS = 10_000  # of a course; of longer ones as many, evenly
_OTHER_COURSES = (1, 2, 10, 100, 1000)  # total steps: what a pipeline says of its budget is changed often
_OTHER_HEADS = (1, 2, 3, 5, 8)
_PATIENCE_S = 4.0  # in which a schedule is asked for its weights everywhere; as long again for asking it anew
_LARGEST = torch.finfo(torch.float32).max  # of a weight, as it meets losses


def head_weights(schedule: AuxSchedule, step: int, total_steps: int, heads: int) -> tuple[float, ...]:
    """What `schedule` gives: one weight per head, finite and ≥ 0. Raises PluginError that names it.

    It is never asked beyond its course: from `total_steps` on, what holds is the last step's.
    """
    step = min(step, total_steps - 1)
    try:
        return _numbers(schedule.weights(step, total_steps, heads), heads)
    except Exception as error:
        said = f"{blame(schedule)} {_asked(step, total_steps, heads)}: {reason(error)}"
        raise PluginError(said) from error


def balance_weights(balance: Any, heads: int) -> tuple[float, ...]:
    """What a learned balance gives: of the main loss and of each head, finite and ≥ 0. Raises PluginError."""
    try:
        return _numbers(balance.weights(), 1 + heads)
    except Exception as error:
        raise PluginError(f"the learned weights of {1 + heads} losses: {reason(error)}") from error


def _numbers(given: Any, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(_number(n) for n in _row(given))
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"gives {str(given)[:60]!r}, and wanted are {count} numbers") from None
    if len(numbers) != count:
        raise Wrong(f"gives {_counted(len(numbers), 'weight')}, and wanted is one for each of {count}")
    if not all(0 <= n <= _LARGEST for n in numbers):
        raise Wrong(f"gives {', '.join(f'{n:g}' for n in numbers)}; a weight is finite and not below 0")
    return numbers


def _row(given: Any) -> Iterable[Any]:
    if isinstance(given, str | bytes | bytearray | Mapping | AbstractSet):
        raise TypeError("a text, or without an order")
    return given


def _number(given: Any) -> float:
    if isinstance(given, Tensor):
        return float(given.detach())
    if not isinstance(given, Real):
        raise TypeError("float() would take a text too")
    return float(given)


def schedule_problems(schedule: AuxSchedule, total_steps: int, heads: int, path: Path) -> list[Problem]:
    """What `schedule`, or one inside it, does that would silence heads, or end training, in a course.

    It is held over the whole course that the pipeline asks for, and over others, with other numbers of heads,
    for which it may refuse with a MedfuseError. One that is too slow for that is told in the log, and held at
    fewer moments.
    """
    nested, untried = [*_nested(schedule, path)], []
    for inner, place in nested:
        try:
            untried.append(_hold_courses(inner, total_steps, heads, _PATIENCE_S / len(nested)))
            _hold_balance(inner, heads)
        except PluginError as error:
            return [Problem(place, line) for line in error.lines]
    if slow := next(filter(None, untried), ""):  # what holds a slow one is slow as well
        log.warning(slow)
    return []


def _hold_courses(schedule: AuxSchedule, total_steps: int, heads: int, patience_s: float) -> str:
    """Ask for the weights of every moment, and again from the last to the first: they are the same.

    Either takes about `patience_s` at most. Returns what was not tried, as it would have taken longer.
    """
    moments = _moments(total_steps, heads)
    made: dict[_Moment, tuple[float, ...]] = {}
    began, asked = time.monotonic(), 0
    for moment in _within(patience_s, moments):
        asked += 1
        try:
            made[moment] = head_weights(schedule, *moment)
        except PluginError as error:
            cause = error.__cause__
            if moment[2] == heads or isinstance(cause, Wrong) or not isinstance(cause, MedfuseError):
                raise
    each = (time.monotonic() - began) / asked
    for moment in _within(patience_s, reversed(made)):
        for now, before in zip(head_weights(schedule, *moment), made[moment]):
            if now != before:
                raise PluginError(
                    f"{blame(schedule)} {_asked(*moment)}: gives a weight of {now!r}, and gave {before!r} "
                    "when asked before; weights may depend on step, total_steps and heads alone"
                )
    if asked == len(moments):
        return ""
    return (
        f"{blame(schedule)} takes {each:.2g} s a call, for which every training step waits: it was tried at "
        f"{asked:,} of {len(moments):,} moments, and not at the others; make weights() faster"
    )


_Moment = tuple[int, int, int]
"""Step, total steps, heads."""


def _within(seconds: float, moments: Iterable[_Moment]) -> Iterator[_Moment]:
    """The first, which may prepare something for all, and then as many as there is time for."""
    began = None
    for moment in moments:
        if began and time.monotonic() - began > seconds:
            return
        yield moment
        began = began or time.monotonic()


def _moments(total_steps: int, heads: int) -> list[_Moment]:
    """Begin, middle and end of every course, and then all that lies between."""
    others = ((total, count) for total in _OTHER_COURSES for count in (heads, *_OTHER_HEADS))
    courses = [*dict.fromkeys([(total_steps, heads), *others])]
    telling = ((step, *course) for course in courses for step in (0, course[0] // 2, course[0] - 1))
    all_steps = ((step, *course) for course in courses for step in _steps(course[0]))
    return [*dict.fromkeys([*telling, *all_steps])]


def _steps(total: int) -> Iterable[int]:
    return range(total) if total <= _STEPS else (round(i * (total - 1) / _STEPS) for i in range(_STEPS + 1))


def _hold_balance(schedule: AuxSchedule, heads: int) -> None:
    try:
        balance = schedule.balance(heads)
        if balance is None:
            return
        losses = torch.ones(1 + heads, requires_grad=True)
        hold_loss(lambda: balance(losses), [losses], wants_gradient=True)
        balance_weights(balance, heads)
    except Exception as error:
        raise PluginError(f"{blame(schedule)}: its balance of {heads} heads: {reason(error)}") from error


def _nested(schedule: AuxSchedule, path: Path) -> Iterator[tuple[AuxSchedule, Path]]:
    """`schedule` and all that it holds, the innermost first, and where each stands."""
    for place, inner in inside(schedule, AuxSchedule):
        yield from _nested(inner, (*path, *place))
    yield schedule, path


def _asked(step: int, total_steps: int, heads: int) -> str:
    return f"at step {step} of {total_steps} for {_counted(heads, 'head')}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
