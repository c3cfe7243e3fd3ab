"""Losses weighed by learned uncertainty."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class UncertaintyBalance(nn.Module):
    """Losses (n,) → Σₖ exp(-sₖ) · Lₖ + sₖ / 2 (Kendall et al. 2018), beginning with the weights given."""

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(-torch.tensor(weights).log())

    def forward(self, losses: Tensor) -> Tensor:
        return ((-self.log_variance).exp() * losses + self.log_variance / 2).sum()

    def weights(self) -> list[float]:
        """exp(-s), one for each loss."""
        made: list[float] = (-self.log_variance.detach()).exp().tolist()
        return made
