"""The rows that steps leave in the log: means over a few of them, their speed, how long they waited."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from medfuse.train.course import Course
from medfuse.train.log import MetricsLog
from medfuse.train.step import Taken

_LOG_EVERY = 10  # steps; the weights of auxiliary heads at each


class Curve:
    """Writes a row for every few steps. `note`: the last mean loss, in a word."""

    def __init__(self, log: MetricsLog, course: Course) -> None:
        self._log, self._course = log, course
        self.note = ""
        self._stepping, self._waited = 0.0, 0.0  # seconds in all rows
        self._wait = 0.0  # seconds before this step
        self.restart()

    def restart(self) -> None:
        """Forget the time since the last row: it did not go into steps."""
        self._window = _Window()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what a step waits for."""
        began = time.perf_counter()
        yield
        self._wait = time.perf_counter() - began

    def add(self, step: Taken, *, epoch_ends: bool) -> None:
        """Once a step is counted."""
        losses = {f"loss/{name}": part for name, part in step.losses.items()}
        extra = step.taught["weight/pseudo"] * step.taught["loss/pseudo"] if step.taught else 0.0
        weights = {f"weight/{name}": weight for name, weight in step.weights.items()}
        self._window.add({"loss": step.loss + extra, **losses, **step.taught}, self._wait)
        number = self._course.progress.step
        if epoch_ends or self._window.steps == _LOG_EVERY:
            row = self._row()
            now = {"step": number, "epoch": number / self._course.steps_per_epoch}
            now |= {"seconds": self._course.seconds(), "learning_rate": step.rate}
            self._log.write({**now, **row, **weights})
            self.note = f"  loss {row['loss']:.3f}"
        elif weights:
            self._log.write({"step": number, "seconds": self._course.seconds(), **weights})

    def wait_share(self) -> float:
        """The share of the time of all steps that was spent waiting."""
        return self._waited / max(self._stepping, 1e-9)

    def _row(self) -> dict[str, float]:
        row = self._window.row()
        self._stepping += self._window.seconds()
        self._waited += self._window.waited
        self.restart()
        return row


@dataclass
class _Window:
    """Means since the last row of the log."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    began: float = field(default_factory=time.perf_counter)
    waited: float = 0.0

    def add(self, numbers: Mapping[str, float | Tensor], waited: float) -> None:
        self.steps += 1
        self.waited += waited
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
            self.counts[name] = self.counts.get(name, 0) + 1

    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def row(self) -> dict[str, float]:
        seconds = self.seconds()
        return {
            **{name: value / self.counts[name] for name, value in self.sums.items()},
            "steps_per_second": self.steps / seconds,
            "wait_share": self.waited / seconds,
        }
