"""Numbers among the arguments of MONAI's transforms that it ignores, as these are for other axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medfuse.builtin.nets.monai_transforms import MonaiChange
from medfuse.core.errors import MedfuseError, PipelineError, Problem

_SIDE = 12  # voxels on each axis of the patches that are tried
_DRAWS = 2


def refuse_other_axes(name: str, parameters: Mapping[str, Any], dims: int) -> None:
    """Raises PipelineError at each argument in which a number changes nothing on patches of `dims` axes.

    That is a fault where it does change patches of another number of axes, and where it stands in a list
    that is longer than a patch has axes, of which other numbers count.
    """
    here, there = _Trials(name, parameters, dims), _Trials(name, parameters, 5 - dims)
    problems = []
    for key, value in parameters.items():
        count = len(value) if isinstance(value, list | tuple) else 1
        idle = [place for place in range(count) if here.ignore(key, place)]
        too_long = dims < count > len(idle)
        if found := [p for p in idle if (too_long and p >= dims) or there.ignore(key, p) is False]:
            which = f"number {', '.join(str(p + 1) for p in found)} of the {count} in " * (len(found) < count)
            what = f"MONAI's {name} ignores {which}{key} on {dims}-D patches; take out what is for others"
            problems.append(Problem(("parameters", key), what))
    if problems:
        raise PipelineError(problems)


class _Trials:
    """What a transform that is always drawn makes of small patches of `dims` axes."""

    def __init__(self, name: str, parameters: Mapping[str, Any], dims: int) -> None:
        self.name, self.dims = name, dims
        self.parameters = parameters
        self.made: dict[int, Tensor | None] = {}  # by its draw, None where the transform fails

    def ignore(self, key: str, place: int) -> bool | None:
        """Whether another number there makes no difference; None where the transform takes no such patch."""
        value = self.parameters[key]
        if isinstance(value, list | tuple):
            other: Any = [_another(x) if i == place else x for i, x in enumerate(value)]
        else:
            other = _another(value)
        if other == value:
            return None
        for draw in range(_DRAWS):
            if draw not in self.made:
                self.made[draw] = self._make(self.parameters, draw)
            if (real := self.made[draw]) is None:
                return None
            changed = self._make({**self.parameters, key: other}, draw)
            if changed is None or not torch.equal(real, changed):
                return False
        return True

    def _make(self, parameters: Mapping[str, Any], draw: int) -> Tensor | None:
        size = (_SIDE,) * self.dims
        patch = torch.randn(1, *size, generator=torch.Generator().manual_seed(draw))
        label = torch.zeros(1, *size, dtype=torch.int64)
        try:
            change = MonaiChange(self.name, parameters)
            if hasattr(change.transform, "prob"):
                change.transform.prob = 1.0
            made, _ = change(patch, label, np.random.RandomState(draw))
        except MedfuseError:
            return None
        return made


def _another(value: Any) -> Any:
    """A number that is far from the one that was given, also in lists; what is none stays."""
    if isinstance(value, list | tuple):
        return [_another(inner) for inner in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return 2 * value + 3 if isinstance(value, int) else 1.5 * value + 0.5
