"""Auxiliary weights that do not change."""

from collections.abc import Sequence

from pydantic import Field

from medfuse import AuxSchedule


class Constant(AuxSchedule):
    """The same weights at every step: head i weighs weight · ratioⁱ.

    A ratio of 0.5 with a weight of 0.5 is nnU-Net's deep supervision (½, ¼, ⅛ …, Isensee et al. 2021).

        schedule: {use: constant, weight: 0.5, ratio: 0.5}
    """

    weight: float = Field(0.5, ge=0, allow_inf_nan=False, description="weight of the first head")
    ratio: float = Field(1.0, ge=0, le=1, description="each further head weighs this share of the one before")

    def weights(self, step: int, total_steps: int, heads: int) -> Sequence[float]:
        return [self.weight * self.ratio**i for i in range(heads)]
