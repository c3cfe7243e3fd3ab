"""Where a training stands, as the files of its run tell; nothing is loaded, and nobody is disturbed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfuse.core.text import number
from medfuse.runs.folder import FOLD_ALL, fold_folders
from medfuse.runs.records import LOCK, Lock, read_record
from medfuse.train.log import read_rows

_LOG = "metrics.jsonl"


@dataclass(frozen=True)
class Standing:
    """A training of `step` steps in `minutes`, of as many as it is to have; the other budget is None.

    judged: whether its held-out cases are, so that all is done. quiet_s: since it last said anything.
    """

    folder: Path
    step: int
    minutes: float
    of_steps: int | None
    of_minutes: float | None
    judged: bool
    quiet_s: float

    @property
    def share(self) -> float:
        """Of the budget, 0 to 1."""
        if self.of_minutes is not None:
            return min(1.0, self.minutes / self.of_minutes)
        return min(1.0, self.step / self.of_steps) if self.of_steps else 0.0

    @property
    def minutes_left(self) -> float | None:
        """Of training, at its pace so far; None while nothing is known of that."""
        if self.share >= 1:
            return 0.0
        return round(self.minutes / self.share * (1 - self.share), 1) if self.share > 0 else None

    def text(self) -> str:
        of = f"step {self.step} of {self.of_steps}" if self.of_steps else f"step {self.step}"
        if self.of_minutes is not None:
            of += f", {number(self.minutes)} of {self.of_minutes:g} minutes"
        if self.judged:
            return f"{of}: finished"
        if self.share >= 1:
            return f"{of}: trained, and not yet judged"
        left = "" if self.minutes_left is None else f", about {self.minutes_left:g} minutes more"
        return f"{of}{left}; last heard of {_ago(self.quiet_s)} ago"

    def values(self) -> dict[str, Any]:
        return {**vars(self), "share": round(self.share, 4), "minutes_left": self.minutes_left}


def standings(folder: Path) -> dict[str, Standing]:
    """Of the run in `folder`, or of the folds and the final model in it, by name; empty where nothing is.

    Raises CheckpointError where its records are damaged.
    """
    runs = [folder, *fold_folders(folder), folder / FOLD_ALL]
    return {run.name: _standing(run) for run in runs if (run / LOCK).exists() and (run / _LOG).exists()}


def _standing(run: Path) -> Standing:
    settings = read_record(Lock, run / LOCK).stretches[-1].train
    rows = read_rows(run / _LOG)
    last = rows[-1] if rows else {}
    epochs, steps, minutes = (settings.get(key) for key in ("epochs", "steps", "minutes"))
    if epochs:
        steps = epochs * settings["steps_per_epoch"]
    return Standing(
        folder=run,
        step=int(last.get("step", 0)),
        minutes=max((row.get("seconds", 0.0) for row in rows[-50:]), default=0.0) / 60,
        of_steps=steps,
        of_minutes=minutes,
        judged=(run / "summary.json").exists(),
        quiet_s=max(0.0, time.time() - (run / _LOG).stat().st_mtime),
    )


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
