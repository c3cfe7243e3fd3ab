"""How far a training has come, in steps and in seconds, and what share of its budget that is."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from medfuse.train.budget import Budget
from medfuse.train.together import Together


@dataclass
class Progress:
    """Where training stands. Saved with every training state."""

    step: int = 0
    seconds: float = 0.0
    best: float = -math.inf
    best_step: int = 0


class Course:
    """The way through a budget: `progress`, whose steps the loop counts, and a clock that runs from now on.

    Seconds include those before a run was carried on.
    """

    def __init__(
        self, budget: Budget, progress: Progress, together: Together, *, steps_per_epoch: int
    ) -> None:
        self.budget, self.progress, self.together = budget, progress, together
        self.steps_per_epoch = steps_per_epoch
        self._start = time.monotonic() - progress.seconds

    @property
    def epoch(self) -> int:
        """Epochs that are finished."""
        return self.progress.step // self.steps_per_epoch

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def charge(self, seconds: float) -> None:
        """Count seconds that were spent elsewhere for this training, such as on what it finds kept."""
        self._start -= seconds

    def done(self) -> float:
        """The share of the budget that is spent, the same in all processes."""
        if self.budget.seconds is None:
            return self.budget.progress(self.progress.step, 0.0)
        return self.together.first(lambda: self.budget.progress(self.progress.step, self.seconds()))

    def share_of(self, seconds: float) -> float:
        """The share of the time until now that `seconds` are, the same in all processes."""
        return self.together.first(lambda: seconds / self.seconds())
