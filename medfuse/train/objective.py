"""What training minimises: the main loss, auxiliary losses times their weights now, losses on activations,
and what a teacher makes of the same patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfuse.api import AuxSchedule
from medfuse.core.errors import MedfuseError
from medfuse.train.held import scalar
from medfuse.train.held_schedules import balance_weights, head_weights
from medfuse.train.teaching import Shown, Teaching

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ActivationTerm:
    """A loss on inner maps: a module that takes them, in order, and gives a scalar."""

    name: str
    maps: tuple[str, ...]
    weight: float
    loss: nn.Module


@dataclass(frozen=True)
class Objective:
    """Losses of the main head, of the auxiliary heads, and on activations.

    The model is called as `model(image)` → logits, or `model(image, aux=names)` → (logits, {name: logits}),
    or with `maps=names` too → (logits, the same, {name: map}). What has a weight of 0 is not asked for, so
    nothing is computed for it. `fixed` are factors of the main loss and of each head, on top of the
    schedule's; 1 where it is empty. Where the schedule learns its weights, `balance` adds up the losses of
    all heads (AuxSchedule.balance). The heads of `presence` are judged by what labels the whole patch has,
    with `presence_loss`: (logits (batch, classes, 1, …), label of the patch) → scalar. `teaching`: what is
    learned from another network, of what it has `shown`.
    """

    loss: LossFunction
    heads: tuple[str, ...] = ()
    schedule: AuxSchedule | None = None
    aux_loss: LossFunction | None = None
    balance: nn.Module | None = None
    activations: tuple[ActivationTerm, ...] = ()
    fixed: tuple[float, ...] = ()
    presence: tuple[str, ...] = ()
    presence_loss: LossFunction | None = None
    teaching: Teaching | None = None

    def learned(self) -> nn.Module:
        """What the objective itself learns, as one module."""
        balance = [self.balance] if self.balance is not None else []
        taught = self.teaching.learned() if self.teaching else []
        return nn.ModuleList([*balance, *(term.loss for term in self.activations), *taught])

    def weights(self, step: int, total_steps: int) -> dict[str, float]:
        """The weight of each auxiliary head at `step`. Raises PluginError where one is no weight."""
        count = len(self.heads)
        if self.balance is not None:
            return dict(zip(self.heads, balance_weights(self.balance, count)[1:], strict=True))
        now = head_weights(self.schedule, step, total_steps, count) if self.schedule and count else ()
        factors = self.fixed[1:]
        together = [a * b for a, b in zip(now, factors)] if now and factors else now or factors
        return dict(zip(self.heads, together, strict=True)) if together else {}

    def __call__(
        self,
        model: Callable[..., object],
        image: Tensor,
        label: Tensor,
        weights: dict[str, float],
        shown: Shown | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, a scalar with a gradient, and its parts, unweighted: `main`, active heads, activations,
        and what is learned of a teacher.

        image: (batch, channels, *patch_size). label: (batch, 1, *patch_size), class indices.
        """
        teaching = self.teaching if shown is not None else None
        heads = tuple(name for name, weight in weights.items() if weight > 0 or self.balance is not None)
        terms = [term for term in self.activations if term.weight > 0]
        named = [name for term in terms for name in term.maps] + [*(teaching.maps if teaching else ())]
        maps = tuple(dict.fromkeys(named))
        logits, inner, made = _outputs(model, image, heads, maps)
        parts = {"main": scalar(self.loss(logits, label), "training: the loss")}
        for name in heads:
            part = self._of_head(name, inner[name], label)
            parts[name] = scalar(part, f"training: the loss of auxiliary head {name}")
        if self.balance is not None:
            total: Tensor = self.balance(torch.stack([*parts.values()]))
        else:
            main = self.fixed[0] * parts["main"] if self.fixed else parts["main"]
            total = main + sum(weights[name] * parts[name] for name in heads)
        for term in terms:
            part = term.loss(*(made[name] for name in term.maps))
            parts[term.name] = scalar(part, f"training: the activation loss {term.name}")
            total = total + term.weight * parts[term.name]
        if teaching and shown is not None:
            for name, weight, part in teaching.losses(logits, made, shown):
                parts[name] = scalar(part, f"training: the loss {name}")
                total = total + weight * parts[name]
        if not total.requires_grad:
            raise MedfuseError("training: the loss has no gradient, so nothing would be learned from it")
        return total, {name: part.detach() for name, part in parts.items()}

    def _of_head(self, name: str, logits: Tensor, label: Tensor) -> Tensor:
        if name in self.presence and self.presence_loss is not None:
            return self.presence_loss(logits, label)
        return (self.aux_loss or self.loss)(logits, shrink(label, logits.shape[2:]))


def shrink(label: Tensor, size: Sequence[int]) -> Tensor:
    """Class indices (batch, 1, *spatial) on a head's own grid: the nearest voxel's, as in nnU-Net."""
    if tuple(label.shape[2:]) == tuple(size):
        return label
    return functional.interpolate(label.float(), size=tuple(size), mode="nearest-exact").to(label.dtype)


def _outputs(
    model: Callable[..., object], image: Tensor, heads: tuple[str, ...], maps: tuple[str, ...]
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    asked = {key: names for key, names in (("aux", heads), ("maps", maps)) if names}
    output = model(image, **asked)
    if isinstance(output, Tensor):
        return output, {}, {}
    assert isinstance(output, tuple)
    logits, inner, *rest = output
    return logits, inner, rest[0] if rest else {}
