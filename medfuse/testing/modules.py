"""What every torch module keeps that a plugin builds, whatever it is for."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from medfuse.testing.report import Check
from medfuse.testing.tensors import Maps, same, seeded


class ModuleLaws:
    """A module that a plugin builds: how one is made, given(batch), and its outputs by name."""

    def __init__(
        self,
        build: Callable[[], nn.Module],
        given: Callable[[int], list[Tensor]],
        run: Callable[[nn.Module, Sequence[Tensor]], Maps],
        names: Sequence[str],
    ) -> None:
        self.build, self.given, self.run, self.names = build, given, run, list(names)

    def laws(self, plural: str) -> dict[str, Check]:
        """What every module keeps, whatever it is for."""
        return {
            "every parameter is registered": self.registers_its_parameters,
            "inputs stay as they are": self.leaves_its_inputs,
            "evaluation is deterministic": lambda: self.agrees(self.tried.module),
            "a copy agrees": lambda: self.agrees(copy.deepcopy(self.tried.module)),
            "an unpickled one agrees": lambda: self.agrees(pickle.loads(pickle.dumps(self.tried.module))),
            "the same seed agrees": lambda: self.agrees(seeded(self.build).eval()),
            f"two {plural} share nothing": self.shares_nothing,
        }

    @cached_property
    def tried(self) -> Tried:
        return Tried(self)

    def agrees(self, module: nn.Module) -> None:
        same(self.tried.outputs, self.run(module, self.given(2)))

    def registers_its_parameters(self) -> None:
        known = {id(p) for p in self.tried.module.parameters()}
        strays = [tuple(x.shape) for x in leaves(self.tried.outputs.values()) if id(x) not in known]
        assert not strays, (
            f"weights of shape {', '.join(map(str, strays))} are no parameters of the module; assign layers "
            "as attributes in __init__, and hold lists of them in nn.ModuleList"
        )

    def leaves_its_inputs(self) -> None:
        pairs = zip(self.names, self.given(2), self.tried.given)
        changed = [name for name, before, after in pairs if not torch.equal(before, after)]
        assert not changed, f"{', '.join(changed)} is changed in place"

    def takes_any_batch(self) -> None:
        """In evaluation, what is made of a case does not depend on its company."""
        alone = self.run(self.tried.module, [x[:1] for x in self.given(3)])
        beside = self.run(self.tried.module, self.given(3))
        for name in alone:
            counts = [made[name].shape[0] for made in (alone, beside)]
            assert counts == [1, 3], f"output {name} has batches {counts} for batches of 1 and 3"
            error = (beside[name][:1] - alone[name]).norm() / alone[name].norm().clamp_min(1e-12)
            assert error < 1e-3, f"output {name} of a case changes with the other cases of its batch"

    def reached(self) -> Reached:
        return Reached(self)

    def gradients_reach_everything(self) -> None:
        missed = self.reached().missed
        assert not missed, f"no gradient reaches {', '.join(missed)}"

    def shares_nothing(self) -> None:
        """Neither tensors nor, as weights that are no parameters show, anything behind the outputs."""
        first, second = seeded(self.build), self.tried.module
        both = {id(x) for x in state(first)} & {id(x) for x in state(second)}
        assert not both, f"{len(both)} parameters or buffers belong to both"
        made = self.run(first.train(), self.given(2))
        with torch.no_grad():
            for weight in leaves(made.values()):
                weight.add_(1)
        try:
            self.agrees(second)
        except AssertionError as error:
            raise AssertionError(f"training one changes the other: {error}") from error


class Tried:
    """A module in evaluation after its first pass, with what it was given and what it made."""

    def __init__(self, tested: ModuleLaws) -> None:
        self.module = seeded(tested.build).eval()
        self.given = tested.given(2)
        self.outputs = tested.run(self.module, self.given)


class Reached:
    """A module after one step backwards: names of the parameters and inputs that no gradient reached."""

    def __init__(self, tested: ModuleLaws) -> None:
        module = seeded(tested.build).train()
        given = [x.requires_grad_() if x.is_floating_point() else x for x in tested.given(2)]
        backward(tested.run(module, given).values())
        sought = [*module.named_parameters(), *zip(tested.names, given)]
        self.missed = [name for name, x in sought if x.requires_grad and x.grad is None]
        bad = [name for name, x in sought if x.grad is not None and not bool(torch.isfinite(x.grad).all())]
        assert not bad, f"the gradient of {', '.join(bad)} is not finite"


def backward(outputs: Iterable[Tensor]) -> None:
    alive = [x.float().square().mean() for x in outputs if x.requires_grad]
    assert alive, "no output has a gradient"
    torch.stack(alive).sum().backward()


def leaves(outputs: Iterable[Tensor]) -> list[Tensor]:
    """Every tensor that training would change, found from the outputs backwards."""
    left = [x.grad_fn for x in outputs if x.grad_fn is not None]
    seen = set(left)
    found: list[Tensor] = []
    while left:
        node = left.pop()
        if hasattr(node, "variable"):
            found.append(node.variable)
        new = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= new
        left.extend(new)
    return found


def state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
