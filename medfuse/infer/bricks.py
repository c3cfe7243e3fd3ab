"""The pieces in which the logits of a volume arrive."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Brick:
    """Finished logits (classes, bx, by, bz) in float32, and their place on the network's grid (x, y, z)."""

    where: tuple[slice, slice, slice]
    logits: Tensor
