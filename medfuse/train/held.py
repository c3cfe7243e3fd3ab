"""What training holds of anybody's losses: one finite number with a finite gradient, or a line about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

from medfuse.api import Plugin
from medfuse.core.errors import MedfuseError, Path
from medfuse.core.section import Section
from medfuse.core.text import by


class Wrong(MedfuseError):
    """What a contract does not allow."""


def scalar(made: Any, whose: str) -> Tensor:
    """A loss as one number. Raises MedfuseError where it is none, or no gradient leads through it."""
    if not isinstance(made, Tensor) or made.numel() != 1:
        shape = by(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise MedfuseError(f"{whose} gives {shape}, and wanted is one number; a loss takes the mean or sum")
    return made.reshape(())


def hold_loss(call: Callable[[], Any], given: Iterable[Tensor], *, wants_gradient: bool) -> None:
    """Raises Wrong where what is called is no finite number with a finite gradient."""
    made = scalar(call(), "it")
    value = float(made.detach())
    if not math.isfinite(value):
        raise Wrong(f"gives {value:g}, and wanted is a finite number")
    if not made.requires_grad:
        raise Wrong("gives a number without gradient, so nothing would learn; detach nothing on the way")
    made.backward()
    gradients = [tensor.grad for tensor in given if tensor.grad is not None]
    if wants_gradient and not any(bool(gradient.any()) for gradient in gradients):
        raise Wrong("gives no gradient to what it is given, so nothing would learn")
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        raise Wrong("gives a gradient that is not finite")


def inside(plugin: Section, kind: type[Plugin]) -> Iterator[tuple[Path, Any]]:
    """Plugins of one kind that are parameters of another, and where."""
    for name in type(plugin).model_fields:
        value = getattr(plugin, name)
        for place, inner in enumerate(value) if isinstance(value, list | tuple) else [(None, value)]:
            if isinstance(inner, kind):
                yield ((name,) if place is None else (name, place)), inner
