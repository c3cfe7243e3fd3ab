"""Auxiliary weights that fall (or rise) along a line."""

from collections.abc import Sequence

from pydantic import Field

from medfuse import AuxSchedule


class LinearDecay(AuxSchedule):
    """From `start` to `end` over the first `until` of training, constant afterwards.

    w(t) = start + (end - start) · min(1, t / until), with t = step / (total_steps - 1).

        schedule: {use: linear_decay, start: 0.4, end: 0.0, until: 0.7}
    """

    start: float = Field(0.4, ge=0, allow_inf_nan=False, description="weight at the first step")
    end: float = Field(0.0, ge=0, allow_inf_nan=False, description="weight from `until` on")
    until: float = Field(1.0, gt=0, le=1, description="share of training after which the weight stays")

    def weights(self, step: int, total_steps: int, heads: int) -> Sequence[float]:
        progress = min(1.0, step / max(total_steps - 1, 1) / self.until)
        return [self.start + (self.end - self.start) * progress] * heads
