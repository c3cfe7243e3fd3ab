"""Dice with a say in what is worse: a voxel too many, or one too few."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from medfuse import Loss

if TYPE_CHECKING:
    from torch import nn


class Tversky(Loss):
    """1 - TP / (TP + false_positives·FP + false_negatives·FN), MONAI's TverskyLoss (Salehi et al. 2017).

    With a half for each it is the Dice loss. More weight on false negatives finds more of small lesions.

        loss: {use: tversky, false_positives: 0.3, false_negatives: 0.7}
    """

    false_positives: float = Field(0.3, gt=0, allow_inf_nan=False, description="weight of a voxel too many")
    false_negatives: float = Field(0.7, gt=0, allow_inf_nan=False, description="weight of a missed voxel")
    background: bool = Field(False, description="whether the background counts")
    batch: bool = Field(True, description="over the whole batch rather than per patch")

    def build(self, classes: int) -> nn.Module:
        from monai.losses import TverskyLoss

        loss: nn.Module = TverskyLoss(
            to_onehot_y=True,
            softmax=True,
            include_background=self.background,
            batch=self.batch,
            alpha=self.false_positives,
            beta=self.false_negatives,
            smooth_nr=1e-5,
            smooth_dr=1e-5,
        )
        return loss
