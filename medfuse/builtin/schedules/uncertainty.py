"""Auxiliary weights that are learned with the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from medfuse import AuxSchedule

if TYPE_CHECKING:
    from torch import nn


class Uncertainty(AuxSchedule):
    """Each loss, the main one included, weighs what its learned uncertainty lets it (Kendall et al. 2018).

    L = Σₖ exp(-sₖ) · Lₖ + sₖ / 2, with s the logarithm of a variance, learned: a loss that stays large is
    trusted less, and s / 2 keeps it from being ignored.

        schedule: {use: uncertainty, start: 0.5}
    """

    start: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="weight of every auxiliary loss at the first step"
    )

    def weights(self, step: int, total_steps: int, heads: int) -> Sequence[float]:
        """Those at the start; the later ones are learned."""
        return [self.start] * heads

    def balance(self, heads: int) -> nn.Module:
        from medfuse.builtin.nets.uncertainty import UncertaintyBalance

        return UncertaintyBalance([1.0, *[self.start] * heads])
