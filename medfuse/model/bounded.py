"""A network is made in the memory that is free; one that a file describes, in what its weights justify."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from medfuse.core.errors import CheckpointError, MedfuseError, ShapeError
from medfuse.core.memory import bytes_text

_MAKE = {
    *(
        "empty",
        "zeros",
        "ones",
        "full",
        "rand",
        "randn",
        "randint",
        "randperm",
        "arange",
        "range",
        "linspace",
    ),
    *(
        "logspace",
        "eye",
        "empty_strided",
        "new_empty",
        "new_zeros",
        "new_ones",
        "new_full",
        "new_empty_strided",
    ),
    *("repeat", "repeat_interleave", "tile"),
}
"""What makes a tensor of a size that is asked for."""


class WithinMemory(TorchFunctionMode):
    """While it is entered, torch refuses to make more than `most` bytes of tensors, before it makes them.

    Those on the meta device do not count; those that are let go do. Raises ShapeError.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = self.bytes_left = most

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _MAKE and not _is_meta(args, kwargs):
            asked = _numbers([*args, *kwargs.values()]) ** (2 if name == "eye" else 1)
            self.bytes_left -= 4 * asked if asked > 2**16 else 0
            if self.bytes_left < 0:
                raise self.too_large()
        return func(*args, **kwargs)

    def too_large(self) -> MedfuseError:
        return ShapeError(
            f"is too large to be made: it asks for more than {bytes_text(self.most)}, half of the memory "
            "that is free; choose smaller numbers"
        )


class Bounded(WithinMemory):
    """While it is entered, torch refuses what goes beyond `weights`, the tensors that are to be loaded.

    Memory: at most eight times theirs and a GiB; calls of torch: at most 200 for each of them and 20,000.
    Raises CheckpointError.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        sizes = [tensor.numel() * tensor.element_size() for tensor in weights]
        super().__init__(8 * sum(sizes) + 2**30)
        self.calls_left = 200 * len(sizes) + 20_000

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch._C._set_grad_enabled:  # the end of a `no_grad` that a refusal leaves, too
            return func(*args, **(kwargs or {}))
        self.calls_left -= 1
        if self.calls_left < 0:
            raise CheckpointError("its model has far more parts than it has weights")
        return super().__torch_function__(func, types, args, kwargs)

    def too_large(self) -> MedfuseError:
        return CheckpointError("its model is far larger than its weights")


def _numbers(values: Iterable[Any]) -> int:
    """How many numbers sizes ask for: one after the other, or in a row."""
    alone, most = 1, 0
    for value in values:
        if isinstance(value, list | tuple) and all(isinstance(n, int) for n in value):
            most = max(most, abs(prod(value)))
        elif isinstance(value, int) and not isinstance(value, bool):
            alone *= abs(value) or 1
            most = max(most, abs(value))
        elif isinstance(value, Tensor) and not value.is_meta:
            alone *= value.numel() or 1
    return max(alone, most)


def _is_meta(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    if (device := kwargs.get("device")) is not None:
        return str(device) == "meta"
    return any(isinstance(value, Tensor) and value.is_meta for value in args)
