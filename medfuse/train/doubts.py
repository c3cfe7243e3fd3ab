"""The usual reasons for which nothing is learned, said while there is time to do something about it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from medfuse.train.budget import too_few

EMPTY_BATCHES = 50
PACE_STEPS = 5
FLAT_STEPS = 200
_MEAN_OF = 20  # steps
_LEAST_FALL = 0.01  # of the loss at the beginning
_MOST_WAITING = 0.05  # of the time


class Doubts:
    """Looks at every step, and warns once of each thing; `fresh`: training begins, and is not carried on."""

    def __init__(self, say: Callable[[str], None], *, fresh: bool) -> None:
        self._say, self._fresh = say, fresh
        self._empty = 0
        self._warned = False
        self._losses: list[float] = []

    def look(self, label: Tensor, loss: float) -> None:
        """At the label (batch, 1, *patch_size) of a step, class indices, and at its loss."""
        self._empty = 0 if bool((label > 0).any()) else self._empty + 1
        if self._empty == EMPTY_BATCHES and not self._warned:
            self._warned = True
            self._say(
                f"warning: no foreground in the last {EMPTY_BATCHES} batches; raise sample.foreground or "
                "sample.patch_size, and look whether the labels are those of these images"
            )
        if self._fresh and len(self._losses) < FLAT_STEPS:
            self._losses.append(loss)
            if len(self._losses) == FLAT_STEPS:
                self._doubt_flat(_mean(self._losses[:_MEAN_OF]), _mean(self._losses[-_MEAN_OF:]))

    def pace(self, step: int, done: float) -> None:
        """After `step` steps a share `done` of a budget in time is spent."""
        due = step == PACE_STEPS or (step < PACE_STEPS and done >= 1)
        if self._fresh and due and (warning := too_few(step / done)):
            self._say(f"{warning} (about so many fit into the minutes)")

    def _doubt_flat(self, first: float, now: float) -> None:
        if first - now < _LEAST_FALL * abs(first):
            self._say(
                f"warning: the loss is flat: {first:.3f} at the beginning, {now:.3f} after {FLAT_STEPS} "
                "steps; `medfuse probe` finds a learning rate, and tells whether one case can be learned"
            )


def wait_advice(share: float) -> str:
    """What to say at the end of the share of time that training waited for data."""
    line = f"waited for data {100 * share:.1f} % of the time"
    if share <= _MOST_WAITING:
        return line
    return f"{line}; raise sample.workers, augment less, or prepare the data on a faster disk"


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)
