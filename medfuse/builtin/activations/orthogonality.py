"""Channels that say different things."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medfuse import ActivationLoss, FeatureInfo, ShapeError

if TYPE_CHECKING:
    from torch import nn


class Orthogonality(ActivationLoss):
    """Channels are pushed to be uncorrelated over space, after DeCov (Cogswell et al. 2016).

    With each channel centred and scaled to length 1, L = mean over pairs i ≠ j of ⟨xᵢ, xⱼ⟩²: 0 where no
    channel tells of another, 1 where all are alike.

        diverse: {use: orthogonality, maps: [encoder.layer4], weight: 0.1}
    """

    def plan(self, maps: Sequence[FeatureInfo]) -> None:
        for x in maps:
            if x.channels < 2:
                raise ShapeError(f"orthogonality compares channels, and {x.name} has one; take it out")
            if x.image_level:
                raise ShapeError(
                    f"orthogonality compares channels over space, and {x.name} is one voxel; take it out"
                )

    def build(self, maps: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.activations import Correlation

        return Correlation()
