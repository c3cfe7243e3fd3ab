"""A running mean of the weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


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
        mine = [p for p in self.model.state_dict().values() if p.is_floating_point()]
        theirs = [p for p in model.state_dict().values() if p.is_floating_point()]
        torch._foreach_lerp_(mine, theirs, 1 - decay)
