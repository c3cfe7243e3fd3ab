"""What a module's weights keep: all are registered, its own, and all that a state dict has to say."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from medfuse.testing.tensors import generator, same, seeded
from medfuse.testing.tested import Tested


def all_are_registered(tested: Tested) -> None:
    known = {id(p) for p in tested.tried.module.parameters()}
    strays = [tuple(x.shape) for x in leaves(tested.tried.outputs.values()) if id(x) not in known]
    assert not strays, (
        f"weights of shape {', '.join(map(str, strays))} are no parameters of the module; assign layers "
        "as attributes in __init__, and hold lists of them in nn.ModuleList"
    )


def copies_agree(tested: Tested) -> None:
    made = tested.run(copy.deepcopy(tested.tried.module), tested.given(2))
    same(tested.tried.outputs, made, "of a copy (copy.deepcopy)")


def pickles_agree(tested: Tested) -> None:
    if any(is_parametrized(layer) for layer in tested.tried.module.modules()):
        return  # torch itself refuses to pickle those
    again = pickle.loads(pickle.dumps(tested.tried.module))
    same(tested.tried.outputs, tested.run(again, tested.given(2)), "of a pickled and unpickled module")


def follow_the_seed(tested: Tested) -> None:
    made = tested.run(tested.fresh(), tested.given(2))
    same(tested.tried.outputs, made, "of a module built after the same torch.manual_seed")


def state_dicts_hold_all(tested: Tested) -> None:
    """Weights of a trained module, in one that was built with another seed, and in a copy that ran before."""
    trained = tested.trained.module.eval()
    shaken(trained)
    wanted = tested.run(trained, tested.given(2))
    torch.manual_seed(1)
    others = {
        "another module": tested.build().eval(),
        "a copy of one that ran before": copy.deepcopy(tested.tried.module),
    }
    tested.trained.module.train()
    for whose, other in others.items():
        other.load_state_dict(trained.state_dict())
        same(
            wanted,
            tested.run(other, tested.given(2)),
            f"once {whose} loads its state dict; hold constants in register_buffer, and keep nothing that is "
            "computed from weights",
        )


def are_not_shared(tested: Tested) -> None:
    """Neither tensors nor, as weights that are no parameters show, anything behind the outputs."""
    first, second = seeded(tested.build), tested.tried.module
    both = {id(x) for x in _state(first)} & {id(x) for x in _state(second)}
    assert not both, f"{len(both)} parameters or buffers belong to both; make new layers in each build()"
    made = tested.run(first.train(), tested.given(2))
    with torch.no_grad():
        for weight in leaves(made.values()):
            weight.add_(1)
    again = tested.run(second, tested.given(2))
    same(tested.tried.outputs, again, "once another one is trained; make new layers in each build()")


def shaken(module: nn.Module) -> None:
    """Weights moved away from where they begin, as gates that begin closed hide what they gate."""
    chance = generator(3)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=chance))


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


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
