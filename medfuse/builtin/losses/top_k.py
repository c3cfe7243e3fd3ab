"""Cross-entropy of the hardest voxels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from medfuse import Loss

if TYPE_CHECKING:
    from torch import nn


class TopK(Loss):
    """The mean cross-entropy of the batch's hardest `percent` of voxels (Wu et al. 2016).

    loss: {use: top_k, percent: 10}
    """

    percent: float = Field(10.0, gt=0, le=100, description="share of voxels that count; 100: cross-entropy")

    def build(self, classes: int) -> nn.Module:
        from medfuse.builtin.nets.losses import TopK as Net

        return Net(self.percent / 100)
