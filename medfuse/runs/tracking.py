"""Trackers of a run: each is told in a thread of its own, and one that fails is left out with a line."""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from medfuse import registry
from medfuse.api import TrackedRun, Tracker, Tracking
from medfuse.core.errors import CheckpointError, lacks, reason
from medfuse.core.files import write_json
from medfuse.pipeline import resolved
from medfuse.runs.records import read_mapping

if TYPE_CHECKING:
    from medfuse.runs.run import Run

TRACKED = "tracked.json"
"""By which key trackers know this run, for as long as it is carried on."""
SECONDS = 60.0
"""How long the end of a run waits for a tracker; one that is stopped early waits a tenth of that."""
_MEASURES = ("Dice", "HD95", "NSD")

Task = Callable[[Tracking], None]


class Trackers:
    """Those of a run that stands at `step`; of several processes the first tells them."""

    def __init__(self, run: Run, step: int) -> None:
        self._run, self._step = run, step
        self._tellers: list[_Teller] | None = None

    def begin(self) -> None:
        """Each begins a run, or goes on with its own; rows that were logged without it are told first."""
        run = self._run
        if self._tellers is not None or not run.pipeline.track or not run.together.is_first:
            return
        key, fresh = _key(run)
        told = TrackedRun(
            name="/".join(dict.fromkeys([run.pipeline.name, run.folder.name])),
            key=key,
            folder=run.folder,
            shared=run.store_folder.parents[1],
            step=self._step,
            parameters=flat(resolved(run.pipeline)),
        )
        self._tellers = [_Teller(tracker, told, run.reporter.say) for tracker in run.pipeline.track]
        if fresh and not run.starts:
            from medfuse.train.log import read_rows

            for row in read_rows(run.folder / "metrics.jsonl"):
                self.tell(row)

    def tell(self, row: Mapping[str, float]) -> None:
        """A row of the log."""
        step, numbers = int(row["step"]), {name: value for name, value in row.items() if name != "step"}
        for teller in self._tellers or ():
            teller.put(lambda tracking: tracking.log(step, numbers))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The end of the run: what summary.json says, and the report."""
        self.begin()
        files = [path for path in (self._run.folder / "report.html",) if path.is_file()]
        self._close(lambda tracking: tracking.finish(numbers_of(summary), files), SECONDS)

    def stop(self) -> None:
        """The process ends before that, or has come to it already."""
        self._close(lambda tracking: tracking.stop(), SECONDS / 10)

    def _close(self, last: Task, seconds: float) -> None:
        tellers, self._tellers = self._tellers or [], []
        for teller in tellers:
            teller.put(last)
        for teller in tellers:
            teller.end(seconds)


@contextmanager
def tracked(run: Run, step: int) -> Iterator[Trackers]:
    """The trackers of a run that stands at `step`, which are told to stop where the block ends early."""
    trackers = Trackers(run, step)
    try:
        yield trackers
    finally:
        trackers.stop()


class _Teller:
    """One tracker and its thread: a training never waits for it."""

    def __init__(self, tracker: Tracker, run: TrackedRun, say: Callable[[str], None]) -> None:
        self._tracker, self._run, self._say = tracker, run, say
        self._name = registry.name_of(tracker)
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._failed = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"tracker {self._name}", daemon=True)
        self._thread.start()

    def put(self, task: Task) -> None:
        if not self._failed.is_set():
            self._tasks.put(task)

    def end(self, seconds: float) -> None:
        """All that was put is taken, or the time is over."""
        self._tasks.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._say(
                f"track: {self._name}: has not taken all of it within {seconds:.0f} s, and is left alone"
            )

    def _work(self) -> None:
        try:
            tracking = self._tracker.begin(self._run)
            while (task := self._tasks.get()) is not None:
                task(tracking)
        except (Exception, SystemExit) as error:
            self._failed.set()
            why = lacks(error) or reason(error)
            self._say(f"track: {self._name}: {why}; the run goes on without it")


def _key(run: Run) -> tuple[str, bool]:
    """The run's key, and whether it is new."""
    path = run.folder / TRACKED
    if not run.starts:
        with suppress(CheckpointError):
            known = read_mapping(path).get("key")
            if isinstance(known, str) and known.isalnum() and len(known) <= 64:
                return known, False
    key = secrets.token_hex(8)
    write_json(path, {"key": key})
    return key, True


def flat(values: Any, name: str = "") -> dict[str, str | int | float | bool]:
    """`{"train": {"minutes": 3}}` as `{"train.minutes": 3}`; a list of plain values is one text."""
    if isinstance(values, list | tuple) and any(isinstance(value, Mapping) for value in values):
        values = {str(number): value for number, value in enumerate(values)}
    if isinstance(values, Mapping):
        inner = (flat(value, f"{name}.{key}" if name else str(key)) for key, value in values.items())
        return {key: value for one in inner for key, value in one.items()}
    if isinstance(values, list | tuple):
        return {name: ", ".join(map(str, values))}
    if values is None:
        return {}
    return {name: values if isinstance(values, str | int | float) else str(values)}


def numbers_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """Means of summary.json by name: `Dice`, `Dice/liver`."""
    found = {measure: summary["foreground_mean"].get(measure) for measure in _MEASURES}
    for label, value in summary["labels"].items():
        means = summary["mean"].get(str(value), {})
        found |= {f"{measure}/{label}": means.get(measure) for measure in _MEASURES}
    return {name: float(value) for name, value in found.items() if value is not None}
