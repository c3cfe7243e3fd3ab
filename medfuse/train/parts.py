"""Parts of a network that learn at a rate of their own, later than the rest, or never."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import Any

from torch import nn

from medfuse.core.errors import PipelineError, Problem, did_you_mean
from medfuse.train.settings import PartSettings


@dataclass(frozen=True)
class _Part:
    settings: PartSettings
    named: Mapping[str, nn.Parameter]

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(self.named.values())

    def groups(self) -> list[dict[str, Any]]:
        """One, or with `layer_decay` one for each layer, the first of the network first."""
        decay = self.settings.layer_decay
        if decay is None:
            return [{"params": [*self.parameters], "factor": self.settings.rate}]
        after = layers_after([*self.named])
        return [
            {
                "params": [p for name, p in self.named.items() if after[name] == n],
                "factor": self.settings.rate * decay**n,
            }
            for n in sorted({*after.values()}, reverse=True)
        ]

    def is_frozen(self, epoch: int) -> bool:
        freeze = self.settings.freeze
        return freeze == "always" or (freeze is not None and epoch < freeze)


class Parts:
    """The parameters of `model`, each in the part of the first glob that matches its name.

    Those that the network has frozen itself stay so. Raises PipelineError where a glob has no parameter.
    """

    def __init__(self, model: nn.Module, settings: Mapping[str, PartSettings]) -> None:
        named = dict(model.named_parameters())
        if problems := part_problems(settings, named):
            raise PipelineError(problems)
        owners = _owners(settings, named)
        self._model = model
        self._still = {id(p) for p in named.values() if not p.requires_grad}
        self._rest = [p for name, p in named.items() if name not in owners]
        self._parts = [
            _Part(part, {name: p for name, p in named.items() if owners.get(name) == glob})
            for glob, part in settings.items()
        ]

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups of an optimiser, always in this order; `factor` is of the learning rate."""
        rest: dict[str, Any] = {"params": self._rest, "factor": 1.0}
        return [rest, *(group for part in self._parts for group in part.groups())]

    def enter(self, epoch: int) -> None:
        """Freeze what stands still in `epoch`, and thaw the rest.

        A module all of whose parameters are frozen is in eval mode, so that its running statistics stand
        still too, and all others are in training mode.
        """
        waiting = [part for part in self._parts if part.settings.freeze]
        if not waiting:
            return
        frozen = {id(p) for part in waiting if part.is_frozen(epoch) for p in part.parameters}
        frozen |= self._still
        for parameter in (p for part in waiting for p in part.parameters):
            parameter.requires_grad_(id(parameter) not in frozen)
        self._model.train()
        for module in self._model.modules():
            own = [id(p) for p in module.parameters()]
            if own and frozen.issuperset(own):
                module.eval()


def learned_group(learned: nn.Module) -> dict[str, Any]:
    """The parameter group of what the objective itself learns."""
    return {"params": [*learned.parameters()], "factor": 1.0, "weight_decay": 0.0}


def part_problems(settings: Mapping[str, PartSettings], names: Iterable[str]) -> list[Problem]:
    """Globs without a parameter, and parts that leave nothing to train, of parameters called `names`."""
    names = list(names)
    owners = _owners(settings, names)
    problems = [
        Problem(("train", "parts", glob), _idle(glob, names), at_key=True)
        for glob in settings
        if glob not in owners.values()
    ]
    for glob, part in settings.items():
        own = [name for name in names if owners.get(name) == glob]
        if part.layer_decay is not None and own and not _layers(own):
            message = (
                f"none of its parameters is of a numbered layer ({own[0]}, …); leave it out, or give `rate`"
            )
            problems.append(Problem(("train", "parts", glob, "layer_decay"), message))
    if names and all(name in owners and settings[owners[name]].freeze for name in names):
        problems.append(Problem(("train", "parts"), "everything is frozen; leave some parameters to train"))
    return problems


_LAYER = re.compile(r"(.*?(?:^|\.)(?:\d+(?=\.)|\w*[A-Za-z_]\d+(?=\.[^.]+\.)))")


def layers_after(names: Sequence[str]) -> dict[str, int]:
    """How many layers come after each parameter, of a network's in their order.

    A layer is what has one number, as in `blocks.3.mlp.weight` and `layer1.0.conv.weight`: the outermost
    counts. What stands before the first of them, as an embedding, is a layer of its own, and so is what
    stands behind.
    """
    found = _layers(names)
    order = {layer: number for number, layer in enumerate(dict.fromkeys(found.values()), 1)}
    last, seen = len(order) + 1, False
    after = {}
    for name in names:
        seen = seen or name in found
        after[name] = last - (order[found[name]] if name in found else last if seen else 0)
    return after


def _layers(names: Sequence[str]) -> dict[str, str]:
    """The layer of each parameter that has one, below what all of the names begin with."""
    columns = zip(*(name.split(".")[:-1] for name in names))
    common = takewhile(lambda parts: len({*parts}) == 1, columns)
    start = "".join(f"{parts[0]}." for parts in common)
    shorter = {name: name.removeprefix(start) for name in names}
    return {name: match[1] for name, short in shorter.items() if (match := _LAYER.match(short))}


def _owners(settings: Mapping[str, PartSettings], names: Iterable[str]) -> dict[str, str]:
    """parameter → the first glob that matches it."""
    found = {name: next((g for g in settings if fnmatchcase(name, g)), None) for name in names}
    return {name: glob for name, glob in found.items() if glob is not None}


def _idle(glob: str, names: list[str]) -> str:
    if any(fnmatchcase(name, glob) for name in names):
        return "all that it matches belongs to a glob before it, and the first counts; put it further up"
    inner = dict.fromkeys(f"{name[:i]}.*" for name in names for i, c in enumerate(name) if c == ".")
    parts = [p for p in inner if p.count(".") == (1 if p.startswith("head") else 2)]  # as pipelines name them
    return f"no parameter has such a name{did_you_mean(glob, inner)} (there are: {', '.join(parts[:8])})"
