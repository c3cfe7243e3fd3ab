"""Parts of a network that learn at a rate of their own, later than the rest, or never."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from medfuse.core.errors import PipelineError, Problem, did_you_mean
from medfuse.train.settings import PartSettings


@dataclass(frozen=True)
class _Part:
    settings: PartSettings
    parameters: tuple[nn.Parameter, ...]

    def is_frozen(self, epoch: int) -> bool:
        freeze = self.settings.freeze
        return freeze == "always" or (freeze is not None and epoch < freeze)


class Parts:
    """The parameters of `model`, each in the part of the first glob that matches its name.

    Raises PipelineError where a glob has no parameter.
    """

    def __init__(self, model: nn.Module, settings: Mapping[str, PartSettings]) -> None:
        named = dict(model.named_parameters())
        if problems := part_problems(settings, named):
            raise PipelineError(problems)
        owners = _owners(settings, named)
        self._model = model
        self._rest = [p for name, p in named.items() if name not in owners]
        self._parts = [
            _Part(part, tuple(p for name, p in named.items() if owners.get(name) == glob))
            for glob, part in settings.items()
        ]

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups of an optimiser, always in this order; `factor` is of the learning rate."""
        rest: dict[str, Any] = {"params": self._rest, "factor": 1.0}
        return [rest, *({"params": [*p.parameters], "factor": p.settings.rate} for p in self._parts)]

    def enter(self, epoch: int) -> None:
        """Freeze what stands still in `epoch`, and thaw the rest.

        A module all of whose parameters are frozen is in eval mode, so that its running statistics stand
        still too, and all others are in training mode.
        """
        waiting = [part for part in self._parts if part.settings.freeze]
        if not waiting:
            return
        frozen = {id(p) for part in waiting if part.is_frozen(epoch) for p in part.parameters}
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
    if names and all(name in owners and settings[owners[name]].freeze for name in names):
        problems.append(Problem(("train", "parts"), "everything is frozen; leave some parameters to train"))
    return problems


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
