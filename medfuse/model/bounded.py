"""A network that a file describes is made in no more memory and steps than the file's weights justify."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from medfuse.core.errors import CheckpointError


class Bounded(TorchDispatchMode):
    """While it is entered, torch refuses what goes beyond `weights`, the tensors that are to be loaded.

    Memory: at most eight times theirs and a GiB, tensors on the meta device not counted; calls of torch: at
    most 100 for each of them and 10,000. Raises CheckpointError.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        sizes = [tensor.numel() * tensor.element_size() for tensor in weights]
        self.bytes_left = 8 * sum(sizes) + 2**30
        self.calls_left = 100 * len(sizes) + 10_000

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.calls_left -= 1
        if self.calls_left < 0:
            raise CheckpointError("its model has far more parts than it has weights")
        asked = max((_voxels(value) for value in args), default=0)
        if asked > 2**16 and not _is_meta(args, kwargs):
            self.bytes_left -= 4 * asked
            if self.bytes_left < 0:
                raise CheckpointError("its model is far larger than its weights")
        return func(*args, **kwargs)


def _voxels(value: Any) -> int:
    """How many numbers a size asks for."""
    if isinstance(value, list | tuple) and value and all(isinstance(n, int) for n in value):
        return abs(prod(value))
    return abs(int(value)) if isinstance(value, int | float) and abs(value) < 2**62 else 0


def _is_meta(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    if (device := kwargs.get("device")) is not None:
        return bool(device.type == "meta")
    return any(isinstance(value, Tensor) and value.is_meta for value in args)
