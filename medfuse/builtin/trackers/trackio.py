"""Trackio: runs in a database of this machine, which its own dashboard shows.

It is told in a process of its own, as it prints, and keeps to the folder that it was imported for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from medfuse.api import TrackedRun, Tracker, Tracking
from medfuse.core.offline import import_offline


class Trackio(Tracker):
    """Tells Trackio of a run: configuration, numbers of every step, and the report as an artifact.

    Runs are kept in the folder `trackio` beside the run folders, which `trackio show` shows with
    TRACKIO_DIR=runs/trackio.

        track: {use: trackio, project: livers}
    """

    project: str = Field("medfuse", min_length=1, description="which project runs belong to")

    def begin(self, run: TrackedRun) -> Tracking:
        folder = run.shared.resolve() / "trackio"
        folder.mkdir(parents=True, exist_ok=True)
        told = _Told(folder)
        told.send("begin", project=self.project, name=f"{run.name} {run.key}", config=dict(run.parameters))
        return told


class _Told:
    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            env={**os.environ, "TRACKIO_DIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def send(self, what: str, **values: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"what": what, **values}) + "\n")
            self._process.stdin.flush()
        except OSError:
            self._end()
            raise

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.send("log", step=step, numbers=dict(numbers))

    def finish(self, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        self.send("finish", summary=dict(summary), files=[str(path.resolve()) for path in files])
        self._end()

    def stop(self) -> None:
        self.send("stop")
        self._end()

    def _end(self) -> None:
        """Raises RuntimeError with the last that the process said, where it failed."""
        said = self._process.communicate()[1].strip()
        if self._process.returncode:
            raise RuntimeError(said.splitlines()[-1] if said else "its process ended")


def main() -> None:
    """The process: what it is told on stdin, a line each."""
    trackio = import_offline("trackio")
    run: Any = None
    for line in sys.stdin:
        told = json.loads(line)
        if told["what"] == "begin":
            own = {"auto_log_gpu": False, "auto_log_cpu": False, "embed": False, "resume": "allow"}
            run = trackio.init(project=told["project"], name=told["name"], config=told["config"], **own)
        elif told["what"] == "log":
            run.log(told["numbers"], step=told["step"])
        else:
            if told["what"] == "finish":
                run.log({f"held out/{name}": value for name, value in told["summary"].items()})
                for path in told["files"]:
                    trackio.log_artifact(path, name=Path(path).stem, type="report")
            run.finish()
            return


if __name__ == "__main__":
    main()
