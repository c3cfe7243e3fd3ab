"""One network that learns to see as another does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medfuse import ActivationLoss, FeatureInfo, ShapeError

if TYPE_CHECKING:
    from torch import nn


class FeatureMatching(ActivationLoss):
    """Distillation of features: the first map is drawn to the second, which gets no gradient.

    A backbone that nothing else teaches stays in evaluation mode: its running statistics do not move.

    L = mean (W x - t)², or 1 - cos(W x, t) per voxel. W is a learned 1×1 convolution where the channels
    differ, the student's map is brought to the teacher's grid, and W is left behind after training (FitNets,
    Romero et al. 2015).

        distilled: {use: feature_matching, maps: [student.layer3, teacher.layer3], weight: 0.5}
    """

    distance: Literal["squared", "cosine"] = Field(
        "squared", description="squared error, or angle between the channels of a voxel"
    )

    def plan(self, maps: Sequence[FeatureInfo]) -> None:
        if len(maps) != 2:
            names = ", ".join(x.name for x in maps)
            raise ShapeError(
                f"feature_matching takes two maps, the student's and the teacher's; given: {names}"
            )
        if len({x.image_level for x in maps}) > 1:
            whole, other = sorted(maps, key=lambda x: not x.image_level)
            raise ShapeError(
                f"{whole.name} says one thing of the whole image, and {other.name} is a map; give "
                "feature_matching two of a kind, as a node of `global_pool` makes"
            )

    def build(self, maps: Sequence[FeatureInfo]) -> nn.Module:
        from medfuse.builtin.nets.activations import Matching

        student, teacher = maps
        return Matching(student.channels, teacher.channels, student.dims, self.distance)
