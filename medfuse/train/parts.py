"""Parts of a network that learn at a rate of their own, later than the rest, or never."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile
from math import prod
from typing import Any

from torch import nn

from medfuse.core.errors import PipelineError, Problem, did_you_mean
from medfuse.core.still import bare, hold, is_held, keep_still
from medfuse.train.settings import PartSettings


@dataclass(frozen=True)
class _Part:
    settings: PartSettings
    parameters: Mapping[str, nn.Parameter]
    bare: Sequence[nn.Module]  # modules with state and without parameters, such as norms that are not affine

    def is_frozen(self, epoch: int) -> bool:
        freeze = self.settings.freeze
        return freeze == "always" or (freeze is not None and epoch < freeze)


class Parts:
    """The parameters of `model`, each in the part of the first glob that matches its name.

    `depths`: of the parameters of backbones, how many layers come after each, where a part's rate depends on
    it. Running statistics that no parameter goes with belong to a part by their own names. What the network
    has frozen itself stays so. Raises PipelineError where a glob has no parameter.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Mapping[str, PartSettings],
        depths: Mapping[str, int] | None = None,
    ) -> None:
        named = dict(model.named_parameters())
        if problems := part_problems(settings, named):
            raise PipelineError(problems)
        owners = _owners(settings, named)
        self._model = model
        self._still = {id(p) for p in named.values() if not p.requires_grad}
        self._rest = [p for name, p in named.items() if name not in owners]
        states = {_state(path, m): m for path, m in bare(model).items() if not is_held(m)}
        held_by = _owners(settings, states)
        self._parts = [
            _Part(
                part,
                {name: p for name, p in named.items() if owners.get(name) == glob},
                [module for name, module in states.items() if held_by.get(name) == glob],
            )
            for glob, part in settings.items()
        ]
        self._depths = depths or {}

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups of an optimiser, always in this order; `factor` is of the learning rate."""
        made: list[dict[str, Any]] = [{"params": self._rest, "factor": 1.0}]
        for part in self._parts:
            for names, factor in by_rate(part.settings, [*part.parameters], self._depths):
                made.append({"params": [part.parameters[name] for name in names], "factor": factor})
        return made

    def enter(self, epoch: int) -> None:
        """Freeze what stands still in `epoch`, and thaw the rest.

        What is frozen is in eval mode, so that its running statistics stand still too (core/still.py), and
        all else is in training mode.
        """
        waiting = [part for part in self._parts if part.settings.freeze]
        if not waiting:
            return
        frozen = {id(p) for part in waiting if part.is_frozen(epoch) for p in part.parameters.values()}
        frozen |= self._still
        for parameter in (p for part in waiting for p in part.parameters.values()):
            parameter.requires_grad_(id(parameter) not in frozen)
        for part in waiting:
            for module in part.bare:
                hold(module, part.is_frozen(epoch))
        self._model.train()
        keep_still(self._model)


def _state(path: str, module: nn.Module) -> str:
    """The name of the first buffer of the module at `path`."""
    name = next(name for name, _ in module.named_buffers(recurse=False))
    return f"{path}.{name}" if path else name


def by_rate(
    part: PartSettings, names: Sequence[str], depths: Mapping[str, int]
) -> list[tuple[list[str], float]]:
    """Parameters of a part that learn at one rate, and its factor; the last layers first."""
    if part.layer_decay is None:
        return [([*names], part.rate)]
    layers: dict[int, list[str]] = {}
    for name in names:
        layers.setdefault(depths[name], []).append(name)
    return [(layers[depth], part.rate * part.layer_decay**depth) for depth in sorted(layers)]


def rate_rows(
    settings: Mapping[str, PartSettings],
    shapes: Mapping[str, Sequence[int]],
    depths: Mapping[str, int],
    peak: float,
) -> list[tuple[str, str, str, str]]:
    """(what, parameters, factor, peak rate) of each group of parameters, in the optimiser's order."""
    owners = _owners(settings, shapes)
    rest = [name for name in shapes if name not in owners]
    rows = [_rate_row("all others", rest, 1.0, peak, shapes)] if rest else []
    for glob, part in settings.items():
        own = [name for name in shapes if owners.get(name) == glob]
        for names, factor in by_rate(part, own, depths):
            what = glob if part.layer_decay is None else f"{glob}: {_span(names)}"
            if part.freeze == "always":
                what, factor = f"{what} (frozen)", 0.0
            elif part.freeze:
                what = f"{what} (after {part.freeze} epoch{'s' * (part.freeze > 1)})"
            rows.append(_rate_row(what, names, factor, peak, shapes))
    return rows


def _rate_row(
    what: str, names: Sequence[str], factor: float, peak: float, shapes: Mapping[str, Sequence[int]]
) -> tuple[str, str, str, str]:
    return what, f"{sum(prod(shapes[name]) for name in names):,}", f"{factor:.3g}", f"{factor * peak:.3g}"


def _span(names: Sequence[str]) -> str:
    """The module that parameters lie in, or the first and the last of them."""
    modules = [name.rpartition(".")[0] for name in names]
    alike = takewhile(lambda parts: len({*parts}) == 1, zip(*(module.split(".") for module in modules)))
    common = [parts[0] for parts in alike]
    return ".".join(common) if len(common) > 3 or len({*modules}) == 1 else f"{modules[0]} … {modules[-1]}"


def needs_depths(settings: Mapping[str, PartSettings]) -> bool:
    return any(part.layer_decay is not None for part in settings.values())


def stays_frozen(settings: Mapping[str, PartSettings], parameters: Mapping[str, bool]) -> frozenset[str]:
    """Of `parameters`, name → whether it is built to learn, those that are frozen to the end of training."""
    owners = _owners(settings, parameters)
    freezes = {name: settings[owners[name]].freeze if name in owners else None for name in parameters}
    return frozenset(
        name
        for name, learns in parameters.items()
        if freezes[name] == "always" or (freezes[name] is None and not learns)
    )


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
        beyond = [n for n, owner in owners.items() if owner == glob and not n.startswith("backbones.")]
        if part.layer_decay is not None and beyond:
            message = (
                f"only backbones have layers in a row, and this part has {beyond[0]} too; name a backbone, "
                "such as `backbones.encoder.*`"
            )
            problems.append(Problem(("train", "parts", glob, "layer_decay"), message))
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
