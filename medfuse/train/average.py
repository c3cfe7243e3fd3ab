"""A running mean of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Average:
    """A running mean of the weights: w̄ ← d·w̄ + (1 - d)·w, with d rising to `decay` over the first steps.

    Averaging over the last steps does what a smaller learning rate would, without waiting for it (Polyak and
    Juditsky 1992).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(_floats(self.model), _floats(model), 1 - decay)


def _floats(model: nn.Module) -> list[Tensor]:
    """Weights and statistics, each once, though a layer may have two names."""
    named = {t.data_ptr(): t for t in model.state_dict().values() if t.is_floating_point() and t.numel()}
    return [*named.values()]
