"""A network lent to a trial: every tensor that it holds has a stand-in, and afterwards it is as it was."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

StandIn = Callable[[Tensor], Tensor]


@contextmanager
def borrowed(module: nn.Module, stand_in: StandIn) -> Iterator[None]:
    """`module` with `stand_in` of each parameter, buffer and other tensor; one that it holds twice stays one.

    Whatever runs inside finds the network itself, its hooks included. Afterwards each of its modules has the
    attributes, tensors, hooks and mode that it had, lists and dicts in it too, and chance is as before.
    """
    lent = _Lent(stand_in)
    modes = {inner: inner.training for inner in module.modules()}
    out_of_reach: list[tuple[Tensor, Tensor]] = []  # such as those of a scripted module
    try:
        with chance_kept():
            lent.take(module)
            out_of_reach += [(t, t.detach().clone()) for t in tensors_of(module) if not lent.made(t)]
            yield
    finally:
        lent.give_back()
        for inner, mode in modes.items():  # a scripted module's is no attribute
            if inner.training != mode:
                inner.training = mode
        for tensor, values in out_of_reach:
            if not torch.equal(tensor, values):
                tensor.data.copy_(values)


def out_of_sight(module: nn.Module) -> list[str]:
    """What could learn but lies in plain lists and dicts, and so is neither trained, moved nor saved."""
    known = {id(x) for x in (*module.modules(), *module.parameters())}
    found: list[str] = []

    def look(value: Any, path: str, seen: tuple[int, ...]) -> None:
        if isinstance(value, nn.Module | nn.Parameter):
            weights = [value] if isinstance(value, nn.Parameter) else [*value.parameters()]
            if id(value) not in known and any(w.requires_grad for w in weights):
                found.append(path)
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            for key, one in inner:
                look(one, f"{path}[{key}]", (*seen, id(value)))

    for name, inner in module.named_modules():
        for attribute, value in vars(inner).items():
            if not attribute.startswith("_") or isinstance(value, list | tuple):
                look(value, f"{name}.{attribute}" if name else attribute, ())
    return found


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once."""
    return [*module.parameters(), *module.buffers()]


class _Lent:
    """What was found in containers, so that it can be put back, and the stand-in of each tensor."""

    def __init__(self, stand_in: StandIn) -> None:
        self._make = stand_in
        self._kept: list[tuple[Any, Any]] = []  # a container and a copy of it
        self._seen: dict[int, Any] = {}  # what was walked, held so that its id stays its own
        self._made: dict[int, tuple[Tensor, Tensor]] = {}  # a tensor by its id, and its stand-in
        self._stand_ins: set[int] = set()

    def take(self, found: Any) -> Any:
        """What stands in for something that a module holds; containers are changed in place."""
        if isinstance(found, Tensor):
            return self._tensor(found)
        if isinstance(found, tuple):
            inner = [self.take(x) for x in found]
            same = all(a is b for a, b in zip(inner, found))
            return found if same or type(found) is not tuple else tuple(inner)
        if id(found) in self._seen or not isinstance(found, nn.Module | dict | list | deque | set):
            return found
        self._seen[id(found)] = found
        contents = vars(found) if isinstance(found, nn.Module) else found
        self._kept.append((contents, contents.copy()))
        if isinstance(contents, MutableMapping):
            for key, value in [*contents.items()]:
                if (made := self.take(value)) is not value:
                    contents[key] = made
        elif not isinstance(contents, set):
            for place, value in enumerate([*contents]):
                if (made := self.take(value)) is not value:
                    contents[place] = made
        return found

    def give_back(self) -> None:
        for container, contents in reversed(self._kept):
            if _same(container, contents):
                continue
            container.clear()
            if isinstance(container, list | deque):
                container.extend(contents)
            else:
                container.update(contents)

    def made(self, tensor: Tensor) -> bool:
        """Whether a tensor of the network is a stand-in, or one that has no size yet."""
        return is_lazy(tensor) or id(tensor) in self._stand_ins

    def _tensor(self, tensor: Tensor) -> Tensor:
        if is_lazy(tensor):
            return tensor
        if id(tensor) not in self._made:
            made = self._make(tensor)
            if isinstance(tensor, nn.Parameter):
                made = nn.Parameter(made, requires_grad=tensor.requires_grad)
            self._made[id(tensor)] = tensor, made
            self._stand_ins.add(id(made))
        return self._made[id(tensor)][1]


def _same(container: Any, contents: Any) -> bool:
    """Whether a container holds the very things that it held, in their order."""
    if len(container) != len(contents) or isinstance(container, set):
        return bool(container == contents)
    if isinstance(container, Mapping):
        return all(a is b and x is y for (a, x), (b, y) in zip(container.items(), contents.items()))
    return all(x is y for x, y in zip(container, contents))


@contextmanager
def chance_kept() -> Iterator[None]:
    """Random numbers go on afterwards as if none had been drawn inside: torch's, Python's and numpy's."""
    numpy = sys.modules.get("numpy")
    torchs, pythons = torch.random.get_rng_state(), random.getstate()
    numpys = numpy.random.get_state() if numpy else None
    try:
        yield
    finally:
        torch.random.set_rng_state(torchs)
        random.setstate(pythons)
        if numpy and numpys is not None:
            numpy.random.set_state(numpys)
