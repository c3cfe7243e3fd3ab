"""Anybody's schedules and losses, held to their contracts: before training, and at every step of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medfuse.api import ActivationLoss, AuxSchedule, FeatureInfo, Loss, Plugin
from medfuse.core.errors import MedfuseError, Path, PluginError, Problem, reason
from medfuse.core.section import Section
from medfuse.core.text import by
from medfuse.registry import blame
from medfuse.train.targets import supervised

_STEPS = 10_000  # of a course; of longer ones as many, evenly
_OTHER_COURSES = (1, 2, 10, 100, 1000)  # total steps: what a pipeline says of its budget is changed often
_OTHER_HEADS = (1, 2, 3, 5, 8)
_LARGEST = torch.finfo(torch.float32).max  # of a weight, as it meets losses
_VOXELS = 48  # per axis, of the patch that losses are tried on


# ------------------------------------------------------------------------------------------- schedules


def head_weights(schedule: AuxSchedule, step: int, total_steps: int, heads: int) -> tuple[float, ...]:
    """What `schedule` gives: one weight per head, finite and ≥ 0. Raises PluginError that names it.

    It is never asked beyond its course: from `total_steps` on, what holds is the last step's.
    """
    step = min(step, total_steps - 1)
    try:
        return _numbers(schedule.weights(step, total_steps, heads), heads)
    except Exception as error:
        asked = f"at step {step} of {total_steps} for {heads} head{'s' if heads > 1 else ''}"
        raise PluginError(f"{blame(schedule)} {asked}: {reason(error)}") from error


def balance_weights(balance: Any, heads: int) -> tuple[float, ...]:
    """What a learned balance gives: of the main loss and of each head, finite and ≥ 0. Raises PluginError."""
    try:
        return _numbers(balance.weights(), 1 + heads)
    except Exception as error:
        raise PluginError(f"the learned weights of {1 + heads} losses: {reason(error)}") from error


class _Wrong(MedfuseError):
    """What a contract does not allow."""


def _numbers(given: Any, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(n.detach() if isinstance(n, Tensor) else n) for n in given)
    except (TypeError, ValueError, RuntimeError):
        raise _Wrong(f"gives {str(given)[:60]!r}, and wanted are {count} numbers") from None
    if len(numbers) != count:
        raise _Wrong(f"gives {_counted(len(numbers), 'weight')}, and wanted is one for each of {count}")
    if not all(0 <= n <= _LARGEST for n in numbers):
        raise _Wrong(f"gives {', '.join(f'{n:g}' for n in numbers)}; a weight is finite and not below 0")
    return numbers


def schedule_problems(schedule: AuxSchedule, total_steps: int, heads: int, path: Path) -> list[Problem]:
    """What `schedule`, or one inside it, does that would silence heads, or end training, in a course.

    It is held over the whole course that the pipeline asks for, and over others, with other numbers of heads,
    for which it may refuse with a MedfuseError.
    """
    for place, inner in _inside(schedule, AuxSchedule):
        if problems := schedule_problems(inner, total_steps, heads, (*path, *place)):
            return problems
    courses = {(total_steps, heads): None}
    courses |= {(total, count): None for total in _OTHER_COURSES for count in (heads, *_OTHER_HEADS)}
    try:
        for total, count in courses:
            _hold_course(schedule, total, count, may_refuse=count != heads)
        _hold_balance(schedule, heads)
    except PluginError as error:
        return [Problem(path, line) for line in error.lines]
    return []


def _hold_course(schedule: AuxSchedule, total: int, heads: int, *, may_refuse: bool) -> None:
    steps = range(total) if total <= _STEPS else {round(i * (total - 1) / _STEPS) for i in range(_STEPS + 1)}
    for step in steps:
        try:
            head_weights(schedule, step, total, heads)
        except PluginError as error:
            cause = error.__cause__
            if may_refuse and isinstance(cause, MedfuseError) and not isinstance(cause, _Wrong):
                return
            raise


def _hold_balance(schedule: AuxSchedule, heads: int) -> None:
    try:
        balance = schedule.balance(heads)
        if balance is None:
            return
        losses = torch.ones(1 + heads, requires_grad=True)
        _hold_loss(lambda: balance(losses), [losses], wants_gradient=True)
        balance_weights(balance, heads)
    except Exception as error:
        raise PluginError(f"{blame(schedule)}: its balance of {heads} heads: {reason(error)}") from error


# ---------------------------------------------------------------------------------------------- losses


@dataclass(frozen=True)
class Targets:
    """What a label holds: `values` class numbers, `regions` of them if any, and `ignored`, one more.

    `classes` is the number of logits.
    """

    classes: int
    values: int
    regions: tuple[tuple[int, ...], ...] = ()
    ignored: int | None = None


def loss_problems(
    loss: Loss, targets: Targets, size: Sequence[int], path: Path, *, all_of_them: bool
) -> list[Problem]:
    """What `loss`, or one inside it, does on a random patch of `size` that would end training.

    It is tried on every class, and on background alone. Unless `all_of_them` are wanted, those that come with
    medfuse are taken to be sound, as many of them import MONAI, which takes seconds.
    """
    for place, inner in _inside(loss, Loss):
        if problems := loss_problems(inner, targets, size, (*path, *place), all_of_them=all_of_them):
            return problems
    if not all_of_them and _is_known(loss):
        return []
    size = tuple(min(n, _VOXELS) for n in size)
    random = torch.Generator().manual_seed(1)
    everything = targets.values + (targets.ignored is not None)
    label = torch.randint(everything, (2, 1, *size), generator=random)
    try:
        made = supervised(loss, targets.classes, regions=targets.regions, ignored=targets.ignored)
        for what, target in (("", label), (" on background alone", torch.zeros_like(label))):
            logits = torch.randn(2, targets.classes, *size, generator=random).requires_grad_()
            try:
                _hold_loss(partial(made, logits, target), [logits], wants_gradient=not what)
            except Exception as error:
                said = f"on logits of 2×{targets.classes}×{by(size)}{what}: {reason(error)}"
                raise PluginError(f"{blame(loss)} {said}") from error
    except PluginError as error:
        return [Problem(path, line) for line in error.lines]
    except MedfuseError as error:
        return [Problem(path, line) for line in error.lines]
    except Exception as error:
        return [Problem(path, f"{blame(loss)} cannot be made: {reason(error)}")]
    return []


def activation_problems(loss: ActivationLoss, maps: Sequence[FeatureInfo], path: Path) -> list[Problem]:
    """What a loss on inner maps does on small random ones that would end training."""
    random = torch.Generator().manual_seed(1)
    size = tuple(2 * max(8, *strides) for strides in zip(*(f.stride for f in maps)))
    shapes = [(2, f.channels, *f.size(size)) for f in maps]
    try:
        made = loss.build(maps)
        given = [torch.randn(shape, generator=random).requires_grad_() for shape in shapes]
        _hold_loss(lambda: made(*given), given, wants_gradient=True)
    except MedfuseError as error:
        return [Problem(path, f"{blame(loss)}: {line}") for line in error.lines]
    except Exception as error:
        return [Problem(path, f"{blame(loss)}: {reason(error)}")]
    return []


def scalar(made: Any, whose: str) -> Tensor:
    """A loss as one number. Raises MedfuseError where it is none, or no gradient leads through it."""
    if not isinstance(made, Tensor) or made.numel() != 1:
        shape = by(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise MedfuseError(f"{whose} gives {shape}, and wanted is one number; a loss takes the mean or sum")
    return made.reshape(())


def _hold_loss(call: Callable[[], Any], given: Iterable[Tensor], *, wants_gradient: bool) -> None:
    """Raises _Wrong where what is called is no finite number with a finite gradient."""
    made = scalar(call(), "it")
    value = float(made.detach())
    if not math.isfinite(value):
        raise _Wrong(f"gives {value:g}, and wanted is a finite number")
    if not made.requires_grad:
        raise _Wrong("gives a number without gradient, so nothing would learn; detach nothing on the way")
    made.backward()
    gradients = [tensor.grad for tensor in given if tensor.grad is not None]
    if wants_gradient and not any(bool(gradient.any()) for gradient in gradients):
        raise _Wrong("gives no gradient to what it is given, so nothing would learn")
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        raise _Wrong("gives a gradient that is not finite")


# ---------------------------------------------------------------------------------------------- plugins


def _inside(plugin: Section, kind: type[Plugin]) -> Iterator[tuple[Path, Any]]:
    """Plugins of one kind that are parameters of another, and where."""
    for name in type(plugin).model_fields:
        value = getattr(plugin, name)
        for place, inner in enumerate(value) if isinstance(value, list | tuple) else [(None, value)]:
            if isinstance(inner, kind):
                yield ((name,) if place is None else (name, place)), inner


def _is_known(plugin: Plugin) -> bool:
    """Whether it comes with medfuse, and is not given arguments for something else."""
    free = any(isinstance(getattr(plugin, name), dict) for name in type(plugin).model_fields)
    return type(plugin).__module__.startswith("medfuse.builtin.") and not free


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
