"""The usual reasons for which nothing is learned, said while there is time to do something about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from medfuse.train.budget import too_few

EMPTY_BATCHES = 50
PACE_STEPS = 5
FLAT_STEPS = 200
CONSTANT_STEPS = 25
_MEAN_OF = 20  # steps
_LEAST_FALL = 0.01  # of the loss at the beginning
_LEAST_CHANGE = 1e-6  # of the loss
_MOST_WAITING = 0.05  # of the time


class Doubts:
    """Looks at every step, and warns once of each thing; `fresh`: training begins, and is not carried on.

    `labels`: the names of class numbers, background first.
    """

    def __init__(self, say: Callable[[str], None], *, fresh: bool, labels: Sequence[str] = ()) -> None:
        self._say, self._fresh = say, fresh
        self._labels, self._unseen = labels, set(range(1, len(labels)))
        self._empty, self._looks = 0, 0
        self._warned, self._judged = False, False
        self._losses: list[float] = []
        self._recent: list[float] = []

    def look(self, label: Tensor, loss: float) -> None:
        """At the label (batch, 1, *patch_size) of a step, class indices, and at its loss."""
        self._looks += 1
        self._unseen -= {number for number in self._unseen if bool((label == number).any())}
        self._empty = 0 if bool((label > 0).any()) else self._empty + 1
        if self._empty == EMPTY_BATCHES and not self._warned:
            self._doubt_empty()
        elif self._looks == EMPTY_BATCHES:
            self._doubt_unseen()
        self._doubt_constant(loss)
        if self._fresh and len(self._losses) < FLAT_STEPS:
            self._losses.append(loss)
            if len(self._losses) == FLAT_STEPS:
                self._doubt_flat()

    def pace(self, step: int, done: float) -> None:
        """After `step` steps a share `done` of a budget in time is spent."""
        due = step == PACE_STEPS or (step < PACE_STEPS and done >= 1)
        if self._fresh and due and (warning := too_few(step / done)):
            self._say(f"{warning} (about so many fit into the minutes)")

    def end(self) -> None:
        """What can only be said of a short training when it is over."""
        if self._looks == self._empty and self._looks and not self._warned:
            self._doubt_empty()
        elif self._looks < EMPTY_BATCHES:
            self._doubt_unseen()
        if 2 * _MEAN_OF <= len(self._losses) < FLAT_STEPS:
            self._doubt_flat()

    def _doubt_empty(self) -> None:
        self._warned = True
        self._say(
            f"warning: no foreground in the last {min(EMPTY_BATCHES, self._looks)} batches; raise "
            "sample.foreground or sample.patch_size, and look whether the labels are those of these images"
        )

    def _doubt_unseen(self) -> None:
        if self._unseen and len(self._unseen) < len(self._labels) - 1:
            names = ", ".join(self._labels[number] for number in sorted(self._unseen))
            self._say(
                f"warning: no patch of the first {self._looks} batches holds {names}, and what is in no "
                "patch is not learned; raise sample.foreground, and look whether the training cases have it"
            )

    def _doubt_constant(self, loss: float) -> None:
        if self._judged:
            return
        self._recent = [*self._recent[-CONSTANT_STEPS + 1 :], loss]
        if len(self._recent) < CONSTANT_STEPS:
            return
        if max(self._recent) - min(self._recent) <= _LEAST_CHANGE * abs(loss):
            self._judged = True
            self._say(
                f"warning: the loss has been {loss:.4g} for {CONSTANT_STEPS} steps, whatever the patch: the "
                "network answers the same to all; look at train.parts, at its activations and at the loss"
            )

    def _doubt_flat(self) -> None:
        first, now = _mean(self._losses[:_MEAN_OF]), _mean(self._losses[-_MEAN_OF:])
        if not self._judged and first - now < _LEAST_FALL * abs(first):
            steps = len(self._losses)
            self._say(
                f"warning: the loss is flat: {first:.3f} at the beginning, {now:.3f} after {steps} "
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
