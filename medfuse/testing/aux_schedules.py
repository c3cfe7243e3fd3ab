"""What a schedule of auxiliary weights keeps."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from medfuse.api import AuxSchedule
from medfuse.testing.modules import ModuleLaws
from medfuse.testing.report import Check, report
from medfuse.testing.tensors import (
    finite_scalar,
    outputs_of,
    seeded,
)


def check_aux_schedule(plugin: AuxSchedule) -> None:
    """Weights are finite, not negative, one per head, and depend on nothing but the step; so is a balance."""
    heads = 2

    def asked() -> Iterator[tuple[str, list[float], int]]:
        for total in (1, 2, 100):
            for step in sorted({0, total // 2, total - 1}):
                for count in (1, 4):
                    made = list(plugin.weights(step, total, count))
                    yield f"step {step} of {total}, {count} heads: {made}", made, count

    def one_per_head() -> None:
        for place, made, count in asked():
            assert len(made) == count, f"not one weight per head at {place}"

    def every_weight_is_good() -> None:
        for place, made, _ in asked():
            assert all(math.isfinite(w) and w >= 0 for w in made), f"not finite and ≥ 0 at {place}"

    def is_pure() -> None:
        first = [list(plugin.weights(step, 10, heads)) for step in range(10)]
        again = [list(plugin.weights(step, 10, heads)) for step in reversed(range(10))][::-1]
        assert first == again, "asked again, in another order, it gives other weights"

    def balances() -> None:
        module = seeded(build)
        finite_scalar(module(losses(1)[0]))
        now = list(module.weights())  # type: ignore[operator]  # a module of the plugin's
        assert len(now) == 1 + heads, f"weights() gives {len(now)} numbers for {1 + heads} losses"
        assert all(map(math.isfinite, now)), f"weights() gives {now}"

    def build() -> nn.Module:
        made = plugin.balance(heads)
        assert made is not None
        return made

    def losses(_: int) -> list[Tensor]:
        return [torch.linspace(0.5, 1.5, 1 + heads)]

    checks: dict[str, Check] = {
        "one weight per head": one_per_head,
        "weights are finite and not negative": every_weight_is_good,
        "is a pure function": is_pure,
    }
    if plugin.balance(heads) is not None:
        module = ModuleLaws(build, losses, outputs_of, ["losses"])
        checks["balances losses to a finite scalar"] = balances
        checks["gradients reach every parameter and loss"] = module.gradients_reach_everything
        checks.update(module.laws("balances"))
    report(plugin, checks)
