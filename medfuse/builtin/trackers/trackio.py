"""Trackio: runs in a database of this machine, which its own dashboard shows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from medfuse.api import TrackedRun, Tracker, Tracking
from medfuse.core.offline import import_offline


class Trackio(Tracker):
    """Tells Trackio of a run: configuration, numbers of every step, and the report as a file.

    Runs are kept in the folder `trackio` beside the run folders, which `trackio show` shows with
    TRACKIO_DIR=runs/trackio.

        track: {use: trackio, project: livers}
    """

    project: str = Field("medfuse", min_length=1, description="which project runs belong to")

    def begin(self, run: TrackedRun) -> Tracking:
        folder = run.shared.resolve() / "trackio"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TRACKIO_DIR", str(folder))  # which is read as it is imported
        trackio = import_offline("trackio")
        begun = trackio.init(
            project=self.project, name=f"{run.name} {run.key}", config=dict(run.parameters), resume="allow"
        )
        return _Told(trackio, begun)


class _Told:
    def __init__(self, trackio: Any, run: Any) -> None:
        self._trackio, self._run = trackio, run

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def finish(self, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        self._run.log({f"held out/{name}": value for name, value in summary.items()})
        self._run.finish()

    def stop(self) -> None:
        self._run.finish()
