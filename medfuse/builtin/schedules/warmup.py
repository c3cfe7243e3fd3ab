"""Auxiliary weights that begin at nothing."""

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from medfuse import AuxSchedule
from medfuse.registry import AuxScheduleField


class Warmup(AuxSchedule):
    """Another schedule, brought in along a line from 0 over the first `over` of training.

    w(t) = min(1, t / over) · then(t), with t = step / (total_steps - 1): `then` keeps the time of the whole
    training, it does not begin later.

        schedule: {use: warmup, over: 0.1, then: {use: cosine, start: 0.4, end: 0.0}}
    """

    then: AuxScheduleField = Field(description="the schedule that is warmed up: its `use:` and parameters")
    over: float = Field(0.1, gt=0, le=1, description="share of training until `then` has its whole weight")

    @model_validator(mode="after")
    def _then_is_not_learned(self) -> Self:
        if type(self.then).balance is not AuxSchedule.balance:
            raise ValueError("`then` learns its weights, so they cannot be warmed up; use it without warmup")
        return self

    def weights(self, step: int, total_steps: int, heads: int) -> Sequence[float]:
        ramp = min(1.0, step / max(total_steps - 1, 1) / self.over)
        return [ramp * weight for weight in self.then.weights(step, total_steps, heads)]
