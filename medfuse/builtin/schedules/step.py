"""Auxiliary weights that change at given moments."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, model_validator

from medfuse import AuxSchedule


class Step(AuxSchedule):
    """The first of `values`, then the next at each moment of `at`: w(t) = values[k], k moments being past.

    t = step / (total_steps - 1); a moment counts as past when it is reached.

        schedule: {use: step, values: [0.5, 0.2, 0.0], at: [0.4, 0.8]}
    """

    values: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = Field(
        (0.5, 0.0), min_length=1, description="the weights, one more than there are moments"
    )
    at: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.5,), description="moments as shares of training, ascending"
    )

    @model_validator(mode="after")
    def _one_more_value_than_moments(self) -> Self:
        if len(self.values) != len(self.at) + 1:
            raise ValueError(
                f"{len(self.values)} values and {len(self.at)} moments; give one value more than `at` has"
            )
        if any(a >= b for a, b in pairwise(self.at)):
            raise ValueError(f"the moments {list(self.at)} do not ascend; sort `at`, each moment once")
        return self

    def weights(self, step: int, total_steps: int, heads: int) -> Sequence[float]:
        return [self.values[bisect_right(self.at, step / max(total_steps - 1, 1))]] * heads
