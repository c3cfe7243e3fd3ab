"""Small activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medfuse import ActivationLoss, FeatureInfo

if TYPE_CHECKING:
    from torch import nn


class L2(ActivationLoss):
    """Mean squared activation, which keeps activations small (Merity et al. 2017). L = mean x².

    small: {use: l2, maps: [encoder.layer4], weight: 1e-3}
    """

    def build(self, maps: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.activations import MeanPower

        return MeanPower(2)
