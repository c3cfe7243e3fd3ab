"""What a training step holds of a network's maps until its backward pass, and where it need not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from medfuse.core.features import ImageInfo
from medfuse.model.depths import find_blocks
from medfuse.model.segmenter import Segmenter
from medfuse.model.trial import trial

_GRADIENTS = 3
"""Maps of the largest size, about: the gradients that are there at once in the backward pass."""


@dataclass(frozen=True)
class Held:
    """Bytes, about, in fp32 and of a batch: maps that are kept, all of them or with `segments` recomputed.

    `segments`: paths of modules of which the input alone need be kept (core/recompute.py). `gradients`: those
    of maps. `weights`: of weights that learn, each once.
    """

    segments: tuple[str, ...]
    all: int
    recomputed: int
    gradients: int
    weights: int

    def step(self, *, checkpointing: bool, parts: int, half: bool, states: int) -> int:
        """Bytes of a training step whose optimiser keeps so many states of each weight."""
        maps = (self.recomputed if checkpointing else self.all) + self.gradients
        return maps // parts // (2 if half else 1) + (2 + states) * self.weights


def held(model: Segmenter, image: ImageInfo, aux: tuple[str, ...] = (), *, batch: int) -> Held:
    """What a batch leaves behind, from the shapes of a trial pass in training mode.

    Counted is what layers are given and make. Raises ShapeError where the network cannot be tried out.
    """
    watch = _Watch([*_candidates(model)])
    handles = [*watch.over(model)]
    try:
        trial(model, image, aux, training=True, batch=batch)
    finally:
        for handle in handles:
            handle.remove()
    weights = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return watch.held(weights)


def _candidates(model: Segmenter) -> Iterator[str]:
    """Blocks of backbones and nodes that no hook lies inside of, as it would fire twice."""
    for kind, parts in (("backbones", model.backbones), ("fusion", model.fusion)):
        for name, part in parts.items():
            path = f"{kind}.{name}"
            if isinstance(part, GraphModule):  # which calls layers one by one
                yield path
                continue
            for block in find_blocks(part):
                for inner in _without_hooks(part.get_submodule(block), block):
                    yield f"{path}.{inner}"


def _without_hooks(module: nn.Module, path: str) -> Iterator[str]:
    """`module`, or of its inner modules the largest without a hook inside."""
    inside = [inner for inner in module.modules() if inner is not module]
    if not any(inner._forward_hooks or inner._forward_pre_hooks for inner in inside):
        yield path
        return
    for name, child in module.named_children():
        yield from _without_hooks(child, f"{path}.{name}")


@dataclass
class _Watch:
    """Hooks that note, during a pass, which memory each layer is given and makes, and in what segment."""

    segments: list[str]
    running: list[str] = field(default_factory=list)
    owners: dict[int, str] = field(default_factory=dict)  # memory → the segment that made it, "" for none
    sizes: dict[int, int] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)
    unfit: set[str] = field(default_factory=set)
    given: list[list[tuple[Tensor, int]]] = field(default_factory=list)
    alive: list[Tensor] = field(default_factory=list)  # so that memory is told apart

    def over(self, model: nn.Module) -> Iterator[Any]:
        yield model.register_forward_pre_hook(self._start, prepend=True)
        for path in self.segments:
            module = model.get_submodule(path)
            yield module.register_forward_pre_hook(partial(self._enter, path), with_kwargs=True, prepend=True)
            yield module.register_forward_hook(partial(self._leave, path), with_kwargs=True)
        for module in model.modules():
            if not [*module.children()]:
                yield module.register_forward_hook(self._note, with_kwargs=True)

    def held(self, weights: int) -> Held:
        by_segment: dict[str, int] = {}
        for memory, size in self.sizes.items():
            owner = self.owners[memory]
            by_segment[owner] = by_segment.get(owner, 0) + size
        gain = {s: by_segment.get(s, 0) for s in self.segments if s in self.ran and s not in self.unfit}
        used = tuple(segment for segment, size in gain.items() if size)
        everything = sum(self.sizes.values())
        saved = sum(gain[s] for s in used)
        largest = max(self.sizes.values(), default=0)
        most = max((gain[s] for s in used), default=0)
        return Held(used, everything, everything - saved + most, _GRADIENTS * largest, weights)

    def _start(self, *_: Any) -> None:
        """A trial may need a second pass."""
        for seen in (self.running, self.owners, self.sizes, self.ran, self.unfit, self.given, self.alive):
            seen.clear()

    def _enter(self, path: str, _: nn.Module, args: Any, kwargs: Any) -> None:
        tensors = _tensors((args, kwargs))
        self._keep(tensors, "")
        self.running.append(path)
        self.given.append([(x, x._version) for x in tensors])

    def _leave(self, path: str, _: nn.Module, args: Any, kwargs: Any, made: Any) -> None:
        self.running.pop()
        if any(x._version != version for x, version in self.given.pop()):
            self.unfit.add(path)  # it overwrites what it is given
        for tensor in _tensors(made):  # kept by whatever comes next
            self._keep([tensor], "")
            self.owners[_memory(tensor)] = ""
        self.ran.add(path)

    def _note(self, _: nn.Module, args: Any, kwargs: Any, made: Any) -> None:
        self._keep(_tensors((args, kwargs, made)), self.running[0] if self.running else "")

    def _keep(self, tensors: list[Tensor], owner: str) -> None:
        for tensor in tensors:
            memory = _memory(tensor)
            if memory not in self.sizes:
                self.alive.append(tensor)
                self.sizes[memory] = tensor.numel() * tensor.element_size()
                self.owners[memory] = owner


def _tensors(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor) and x.is_floating_point()]


def _memory(x: Tensor) -> int:
    """The same for all views of one tensor."""
    return x.untyped_storage()._cdata
