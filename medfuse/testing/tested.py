"""A module under test: how one is made, what it is given, and what it then makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from medfuse.testing.tensors import Maps, seeded


class Given(Protocol):
    """Inputs for a module: `seed` chooses their values, `odd` another size."""

    def __call__(self, batch: int, *, seed: int = 1, odd: bool = False) -> list[Tensor]: ...


@dataclass(frozen=True)
class Tested:
    """build() makes the module, run(module, given(batch)) its outputs by name; `names` are of its inputs."""

    build: Callable[[], nn.Module]
    given: Given
    run: Callable[[nn.Module, Sequence[Tensor]], Maps]
    names: Sequence[str]

    @cached_property
    def tried(self) -> Tried:
        return Tried(self)

    @cached_property
    def trained(self) -> Trained:
        return Trained(self)

    def fresh(self) -> nn.Module:
        """In evaluation, with the weights that all of them have."""
        return seeded(self.build).eval()

    def named(self, given: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
        return list(zip(self.names, given, strict=True))


class Tried:
    """A module in evaluation after its first pass, with what it was given and what it made."""

    def __init__(self, tested: Tested) -> None:
        self.module = tested.fresh()
        self.before = traits(self.module)
        self.given = tested.given(2)
        self.outputs = tested.run(self.module, self.given)
        self.after = traits(self.module)


class Trained:
    """A module in training after its first pass, with what it was given and what it made."""

    def __init__(self, tested: Tested) -> None:
        self.module = seeded(tested.build).train()
        self.before = traits(self.module)
        leaves = [x.requires_grad_() if x.is_floating_point() else x for x in tested.given(2)]
        self.given = [x.clone() for x in leaves]  # which may be changed in place, and tell
        torch.manual_seed(7)
        self.outputs = tested.run(self.module, self.given)
        self.after = traits(self.module)


@dataclass(frozen=True)
class Traits:
    """What a pass has to leave as it is, by a layer's or a parameter's name."""

    modes: dict[str, bool]
    frozen: dict[str, bool]
    hooks: dict[str, int]
    weights: dict[str, Tensor]
    buffers: dict[str, Tensor]


def traits(module: nn.Module) -> Traits:
    layers = dict(module.named_modules())
    return Traits(
        {name: layer.training for name, layer in layers.items()},
        {name: not p.requires_grad for name, p in module.named_parameters()},
        {name: len(layer._forward_hooks) + len(layer._forward_pre_hooks) for name, layer in layers.items()},
        {name: p.detach().clone() for name, p in module.named_parameters()},
        {name: b.detach().clone() for name, b in module.named_buffers()},
    )
