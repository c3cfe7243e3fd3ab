"""Batches of any size for an engine that takes one size only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def in_batches_of(size: int, run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`run`, which takes exactly `size` windows, for any number: too many are split, too few padded."""
    import torch

    def run_any(windows: Tensor) -> Tensor:
        made = [run(_filled(part, size))[: len(part)] for part in windows.split(size)]
        return made[0] if len(made) == 1 else torch.cat(made)

    return run_any


def _filled(windows: Tensor, size: int) -> Tensor:
    if len(windows) == size:
        return windows
    filled = windows.new_zeros((size, *windows.shape[1:]))
    filled[: len(windows)] = windows
    return filled
