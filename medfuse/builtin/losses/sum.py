"""Several losses at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from medfuse import Loss
from medfuse.registry import LossField

if TYPE_CHECKING:
    from torch import nn


class Sum(Loss):
    """The weighted sum of other losses.

    loss:
      use: sum
      terms: [{use: tversky, false_negatives: 0.8}, top_k]
      weights: [1, 0.5]
    """

    terms: tuple[LossField, ...] = Field(min_length=1, description="losses, each with its `use:`")
    weights: tuple[float, ...] = Field((), description="one weight per term; 1 for each where not given")

    @model_validator(mode="after")
    def _a_weight_each(self) -> Sum:
        if self.weights and len(self.weights) != len(self.terms):
            raise ValueError(f"{len(self.terms)} terms and {len(self.weights)} weights; give as many of each")
        if any(not 0 <= weight < float("inf") for weight in self.weights):
            raise ValueError("weights are finite and not below 0")
        return self

    def looks_at_places(self) -> bool:
        return any(term.looks_at_places() for term in self.terms)

    def build(self, classes: int) -> nn.Module:
        from medfuse.builtin.nets.losses import WeightedSum

        weights = self.weights or (1.0,) * len(self.terms)
        return WeightedSum([term.build(classes) for term in self.terms], weights)
