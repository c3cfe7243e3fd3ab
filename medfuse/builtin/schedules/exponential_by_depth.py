"""Auxiliary weights that shrink (or grow) from head to head."""

from collections.abc import Sequence

from pydantic import Field

from medfuse import AuxSchedule


class ExponentialByDepth(AuxSchedule):
    """Head i weighs ratioⁱ of the first, at every step: 1, ½, ¼, … in the order of `aux.heads`.

    wᵢ = weight · ratioⁱ, as `constant` has it. With `normalize`, wᵢ = weight · ratioⁱ / Σⱼ ratioʲ: all heads
    together weigh the same, however many there are. A ratio above 1 favours the later heads. nnU-Net's
    1, ½, ¼, … counts the main head as the first: here that is a weight of 0.5 (Isensee et al. 2021).

        schedule: {use: exponential_by_depth, weight: 0.5, ratio: 0.5, normalize: true}
    """

    weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="of the first head; of all together with `normalize`"
    )
    ratio: float = Field(0.5, gt=0, le=10, description="each further head weighs this times the one before")
    normalize: bool = Field(False, description="divide by the sum over the heads")

    def weights(self, step: int, total_steps: int, heads: int) -> Sequence[float]:
        shares = [self.ratio**i for i in range(heads)]
        whole = sum(shares) if self.normalize else 1.0
        return [self.weight * share / whole for share in shares]
