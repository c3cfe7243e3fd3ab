"""A loss on how far from the true boundary the prediction reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from medfuse import Loss

if TYPE_CHECKING:
    from torch import nn


class Boundary(Loss):
    """The mean of φ·p over voxels and labels, φ the signed distance to the boundary (Kervadec et al. 2019).

    φ is negative inside, in voxels; a label that a patch does not hold is left out. It is meant to stand
    beside a loss on overlap, so give it to the loss named sum as one of its terms.

        loss: {use: boundary}
    """

    background: bool = Field(False, description="whether the background's boundary counts too")

    def looks_at_places(self) -> bool:
        return True

    def build(self, classes: int) -> nn.Module:
        from medfuse.builtin.nets.losses import Boundary as Net

        return Net(classes, background=self.background)
