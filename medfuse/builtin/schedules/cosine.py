"""Auxiliary weights that fall (or rise) along half a cosine."""

from collections.abc import Sequence
from math import cos, pi

from pydantic import Field

from medfuse import AuxSchedule


class Cosine(AuxSchedule):
    """From `start` to `end` along half a cosine over the first `until` of training, constant afterwards.

    w(t) = end + (start - end) · (1 + cos(π · min(1, t / until))) / 2, with t = step / (total_steps - 1): flat
    at both ends, steepest halfway (the shape of Loshchilov & Hutter 2017).

        schedule: {use: cosine, start: 0.4, end: 0.0, until: 0.7}
    """

    start: float = Field(0.4, ge=0, allow_inf_nan=False, description="weight at the first step")
    end: float = Field(0.0, ge=0, allow_inf_nan=False, description="weight from `until` on")
    until: float = Field(1.0, gt=0, le=1, description="share of training after which the weight stays")

    def weights(self, step: int, total_steps: int, heads: int) -> Sequence[float]:
        progress = min(1.0, step / max(total_steps - 1, 1) / self.until)
        share = (1 + cos(pi * progress)) / 2
        return [self.start * share + self.end * (1 - share)] * heads
