"""The end of an epoch: held-out cases judge the weights where there is time for that, and they are saved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from medfuse.train.course import Course
from medfuse.train.log import MetricsLog

Validate = Callable[[nn.Module], Mapping[str, float]]
"""The network in eval mode → numbers to log; "dice" chooses the best weights."""

Save = Callable[[str, nn.Module, Mapping[str, float]], None]
"""("best" or "last", the network, facts) → nothing; writes its weights."""

_LOOKING_SHARE = 0.1  # most of the time of a budget in minutes that goes into validation, the last one aside


@dataclass
class EpochEnd:
    """Judges `model`, the network or its running mean, and saves it.

    `looked`: whether the weights that were saved last have been judged. `note`: what was found, in a word.
    """

    model: nn.Module
    course: Course
    validate: Validate
    save: Save
    log: MetricsLog
    looked: bool = True
    note: str = ""
    _looking: float = 0.0  # seconds

    def __call__(self, *, last: bool) -> None:
        """The last weights are always judged."""
        progress = self.course.progress
        self.looked = last or self._may_look()
        scores = self._look() if self.looked else {}
        self.log.write({"step": progress.step, "seconds": self.course.seconds(), **scores})
        facts = {"step": progress.step, **scores}
        if scores.get("dice", -math.inf) > progress.best:
            progress.best, progress.best_step = scores["dice"], progress.step
            self.save("best", self.model, facts)
        self.save("last", self.model, facts)

    def _may_look(self) -> bool:
        """Whether validation has not had its share of the time yet, the same in all processes."""
        return self.course.budget.seconds is None or self.course.share_of(self._looking) <= _LOOKING_SHARE

    def _look(self) -> dict[str, float]:
        began = time.perf_counter()
        self.model.eval()
        try:
            with torch.inference_mode():
                scores = dict(self.validate(self.model))
        finally:
            self.model.train()
        self._looking += time.perf_counter() - began
        self.note = f"  Dice {scores['dice']:.3f}" if "dice" in scores else ""
        return scores
