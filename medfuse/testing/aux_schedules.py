"""What a schedule of auxiliary weights keeps: it is a function of progress, and good everywhere."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from functools import partial
from numbers import Real

import torch
from torch import Tensor, nn

from medfuse.api import AuxSchedule
from medfuse.testing import chance, gradients
from medfuse.testing.modules import module_laws
from medfuse.testing.report import Check, report
from medfuse.testing.tensors import finite_scalar, outputs_of, seeded
from medfuse.testing.tested import Tested

HEADS = (1, 2, 3, 4, 5, 6, 7, 8)


def check_aux_schedule(plugin: AuxSchedule) -> None:
    """Weights are finite, not negative, one per head, and depend on nothing but the step; so is a balance.

    Every step of short and long trainings is asked for, with one head to eight.
    """
    checks: dict[str, Check] = {
        "one weight per head": partial(_one_per_head, plugin),
        "weights are finite and not negative": partial(_every_weight_is_good, plugin),
        "is a pure function": partial(_is_pure, plugin),
    }
    if plugin.balance(2) is not None:
        tested = Tested(partial(_built, plugin, 2), _losses, outputs_of, ["losses"])
        checks["balances losses to a finite scalar"] = partial(_balances, plugin)
        checks["gradients reach every parameter and loss"] = partial(gradients.reach_everything, tested)
        checks.update(module_laws(tested, "balances"))
    report(plugin, checks)


def _places() -> Iterator[tuple[int, int, int]]:
    """(step, total_steps, heads)"""
    for total in (1, 2, 3, 7, 100):
        for step in range(total):
            for heads in HEADS if total < 100 or step % 50 in (0, 49) else (3,):
                yield step, total, heads
    for total in (1000, 250_000):
        for share in range(101):
            yield min(total * share // 100, total - 1), total, 2


def _asked(plugin: AuxSchedule) -> Iterator[tuple[str, Sequence[float], int]]:
    for step, total, heads in _places():
        made = plugin.weights(step, total, heads)
        yield f"step {step} of {total} with {heads} heads: {made}", made, heads


def _one_per_head(plugin: AuxSchedule) -> None:
    for place, made, heads in _asked(plugin):
        assert isinstance(made, Sequence), f"no list or tuple at {place}"
        assert len(made) == heads, f"not one weight per head at {place}"


def _every_weight_is_good(plugin: AuxSchedule) -> None:
    for place, made, _ in _asked(plugin):
        assert all(isinstance(w, Real) for w in made), f"no plain numbers at {place}"
        assert all(math.isfinite(w) and w >= 0 for w in made), f"not finite and ≥ 0 at {place}"


def _is_pure(plugin: AuxSchedule) -> None:
    """Asked in another order, of a plugin that was asked nothing else, and later: always the same."""
    places = [p for p in _places() if p[1] in (3, 100) and p[2] in (2, 3)]
    untouched = type(plugin).model_validate(copy.deepcopy(plugin.model_dump()))
    torch.manual_seed(1)
    handed = {place: plugin.weights(*place) for place in places}
    first = {place: list(made) for place, made in handed.items()}
    torch.manual_seed(2)
    for place in reversed(places):
        assert list(plugin.weights(*place)) == first[place], (
            f"asked again, in another order, it gives other weights at step {place[0]} of {place[1]}; use "
            "nothing but step, total_steps and heads"
        )
    for place in reversed(places):
        fresh = untouched.model_copy()
        assert list(fresh.weights(*place)) == first[place], (
            f"at step {place[0]} of {place[1]} the weights depend on what was asked before"
        )
    rewritten = [place for place, made in handed.items() if list(made) != first[place]]
    assert not rewritten, "a list of weights that was handed out is changed later; make a new one each time"
    chance.assert_no_reseeding(lambda: plugin.weights(0, 10, 2), "weights()")


def _built(plugin: AuxSchedule, heads: int) -> nn.Module:
    made = plugin.balance(heads)
    assert made is not None, f"balance() makes nothing for {heads} heads"
    return made


def _losses(batch: int, *, seed: int = 1, odd: bool = False) -> list[Tensor]:
    return [torch.linspace(0.5, 1.5 * seed, 3)]


def _balances(plugin: AuxSchedule) -> None:
    for heads in HEADS:
        module = seeded(partial(_built, plugin, heads))
        for losses in (torch.linspace(0.5, 1.5, 1 + heads), torch.zeros(1 + heads)):
            finite_scalar(module(losses))
        now = list(module.weights())  # type: ignore[operator]  # a module of the plugin's
        assert len(now) == 1 + heads, f"weights() gives {len(now)} numbers for {1 + heads} losses"
        assert all(isinstance(w, Real) and math.isfinite(w) for w in now), f"weights() gives {now}"
