"""Sparse activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medfuse import ActivationLoss, FeatureInfo

if TYPE_CHECKING:
    from torch import nn


class L1(ActivationLoss):
    """Mean absolute activation: few units speak at a time. L = mean |x|, averaged over the maps.

    sparse: {use: l1, maps: [encoder.layer4], weight: 1e-3}
    """

    def build(self, maps: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.activations import MeanPower

        return MeanPower(1)
