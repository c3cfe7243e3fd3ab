"""The loss that most of the field trains with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from medfuse import Loss

if TYPE_CHECKING:
    from torch import nn


class DiceCE(Loss):
    """Soft Dice plus cross-entropy, MONAI's DiceCELoss (Isensee et al. 2021).

    loss: {use: dice_ce, dice: 1.0, cross_entropy: 1.0}
    """

    dice: float = Field(1.0, ge=0, allow_inf_nan=False, description="weight of the Dice loss")
    cross_entropy: float = Field(1.0, ge=0, allow_inf_nan=False, description="weight of the cross-entropy")
    background: bool = Field(False, description="whether the background counts in the Dice loss")
    batch: bool = Field(True, description="Dice over the whole batch rather than per patch")

    def build(self, classes: int) -> nn.Module:
        from monai.losses import DiceCELoss

        loss: nn.Module = DiceCELoss(
            to_onehot_y=True,
            softmax=True,
            include_background=self.background,
            batch=self.batch,
            smooth_nr=1e-5,
            smooth_dr=1e-5,
            lambda_dice=self.dice,
            lambda_ce=self.cross_entropy,
        )
        return loss
