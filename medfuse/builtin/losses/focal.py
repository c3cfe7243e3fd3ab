"""Cross-entropy that lets go of what is easy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from medfuse import Loss

if TYPE_CHECKING:
    from torch import nn


class Focal(Loss):
    """Cross-entropy times (1 - p)^gamma of the right class, MONAI's FocalLoss (Lin et al. 2017).

    With gamma 0 it is cross-entropy.

        loss: {use: focal, gamma: 2}
    """

    gamma: float = Field(2.0, ge=0, allow_inf_nan=False, description="how much less an easy voxel counts")

    def build(self, classes: int) -> nn.Module:
        from medfuse.builtin.nets.losses import Focal as Net

        return Net(self.gamma)
