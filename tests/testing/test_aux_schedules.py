"""Faults that authors of schedules make, each caught by the law that it breaks."""

import itertools
import math
import random

import torch
from planting import each, failed, planted
from pydantic import PrivateAttr
from sound import Balance, Schedule, by_scale

from medfuse.testing import check_aux_schedule

CALLS = itertools.count()


class First(Schedule):
    __doc__ = Schedule.__doc__
    _total: list = PrivateAttr(default_factory=list)

    def weights(self, step, total_steps, heads):
        self._total.append(total_steps)
        return [0.5 * (1 - min(step / self._total[0], 1))] * heads


class OneList(Schedule):
    __doc__ = Schedule.__doc__
    _made: list = PrivateAttr(default_factory=list)

    def weights(self, step, total_steps, heads):
        self._made[:] = super().weights(step, total_steps, heads)
        return self._made


def balanced(forward):
    return {"balance": lambda self, heads: Balance(heads, forward)}


def reading(weights):
    return {"weights": lambda self, step, total_steps, heads: weights(step, total_steps, heads)}


FAULTS = {
    "is negative": (
        "weights are finite and not negative",
        reading(lambda s, t, h: [-s] * h),
    ),
    "is no number": ("weights are finite and not negative", reading(lambda s, t, h: [math.nan] * h)),
    "is for one head": ("one weight per head", reading(lambda s, t, h: [0.5])),
    "counts how often it is asked": ("is a pure function", reading(lambda s, t, h: [next(CALLS)] * h)),
    "leaves losses apart": ("balances losses to a finite scalar", balanced(lambda m, x: m.scale * x)),
    "trains nothing": ("gradients reach every parameter and loss", balanced(lambda m, x: x.sum())),
    "divides by steps that are left": (
        "weights are finite and not negative",
        reading(lambda s, t, h: [1 / (t - 1 - s) if t - 1 - s else math.inf] * h),
    ),
    "divides by one head less": (
        "weights are finite and not negative",
        reading(lambda s, t, h: [i / (h - 1) for i in range(h)]),
    ),
    "is complex early on": (
        "weights are finite and not negative",
        reading(lambda s, t, h: [(s / t - 0.5) ** 0.5] * h),
    ),
    "falls below 0 at the end": (
        "weights are finite and not negative",
        reading(lambda s, t, h: [0.5 - 0.51 * s / t] * h),
    ),
    "gives tensors": (
        "weights are finite and not negative",
        reading(lambda s, t, h: list(torch.full((h,), 0.5))),
    ),
    "gives them once": ("one weight per head", reading(lambda s, t, h: (0.5 for _ in range(h)))),
    "forgets a head at the end": (
        "one weight per head",
        reading(lambda s, t, h: [0.5] * (h - (s == t - 1 and h > 1))),
    ),
    "is good for three heads": (
        "one weight per head",
        reading(lambda s, t, h: [0.5, 0.3, 0.1] if h >= 3 else [0.5] * h),
    ),
    "fails in long trainings": (
        "weights are finite and not negative",
        reading(lambda s, t, h: [math.nan if s > 200_000 else 0.5] * h),
    ),
    "is drawn": ("is a pure function", reading(lambda s, t, h: [random.random()] * h)),
    "is drawn by torch": ("is a pure function", reading(lambda s, t, h: torch.rand(h).tolist())),
    "keeps its first length": ("is a pure function", First),
    "hands out one list": ("is a pure function", OneList),
    "takes the logarithm of a loss": (
        "balances losses to a finite scalar",
        balanced(lambda m, x: (m.scale.exp() * x.log()).sum()),
    ),
    "balances two heads": (
        "balances losses to a finite scalar",
        balanced(lambda m, x: by_scale(m, x[:3] + x.new_zeros(3))),
    ),
    "forgets the main loss": (
        "gradients reach every parameter and loss",
        balanced(lambda m, x: by_scale(m, torch.cat([x.detach()[:1], x[1:].detach()]))),
    ),
    "keeps what losses were": (
        "a call leaves nothing for the next",
        balanced(lambda m, x: by_scale(m, x) * getattr(m, "seen", 1) + setattr_(m, float(x.detach()[-1]))),
    ),
}


def setattr_(module, value):
    module.seen = value
    return 0


@each(FAULTS)
def test_a_faulty_schedule_is_caught(fault):
    check, members = fault
    faulty = members if isinstance(members, type) else planted(Schedule, **members)
    assert check in failed(check_aux_schedule, faulty())


def test_without_a_fault_a_schedule_passes():
    check_aux_schedule(Schedule())
    check_aux_schedule(planted(Schedule, **balanced(by_scale))())
