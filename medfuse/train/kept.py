"""What a training keeps, so that it can be carried on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from medfuse.core.errors import CheckpointError
from medfuse.train.course import Course, Progress
from medfuse.train.settings import TrainSettings
from medfuse.train.state import newest_state, read_state, write_state

_STATE_EVERY = 60.0  # seconds between two training states where `state_every` is not given


@dataclass(frozen=True)
class Trained:
    """Everything that training changes, and so what carrying on needs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    objective: nn.Module
    average: nn.Module | None

    def keep(self, folder: Path, progress: Progress) -> None:
        """Write it down. Plain tensors and numbers: loading executes no code."""
        state = {name: None if part is None else part.state_dict() for name, part in vars(self).items()}
        write_state(folder, {**state, "progress": vars(progress)})

    def restore(self, folder: Path, say: Callable[[str], None]) -> Progress:
        """Read it back where there is any. Raises CheckpointError."""
        state = read_state(folder, say)
        if state is None:
            return Progress()
        try:
            for name, part in vars(self).items():
                if part is not None:
                    part.load_state_dict(state[name])
            return Progress(**state["progress"])
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{newest_state(folder)}: is the training state of another model ({reason[:120]}); "
                "delete it to train again from the start, or give the run another name"
            ) from error


@dataclass
class Keeper:
    """Writes training states into `folder`, in the first process alone."""

    trained: Trained
    folder: Path
    course: Course
    settings: TrainSettings
    _saved: float = field(default_factory=time.monotonic)

    def is_due(self) -> bool:
        """Whether it is time for a state, in the middle of an epoch."""
        if self.settings.state_every:
            return self.course.progress.step % self.settings.state_every == 0
        return time.monotonic() - self._saved > _STATE_EVERY

    def keep(self) -> None:
        if not self.course.together.is_first:
            return
        self.course.progress.seconds = self.course.seconds()
        self.trained.keep(self.folder, self.course.progress)
        self._saved = time.monotonic()
