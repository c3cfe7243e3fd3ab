"""The desk behind the door: orders become jobs, what is sent and made is kept, and found again."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medfuse.api import Case
from medfuse.core.errors import DataError
from medfuse.infer.cases import find_inputs
from medfuse.service.jobs import Job, Order
from medfuse.service.kept import Kept, Store
from medfuse.service.labelling import worker
from medfuse.service.limits import Limits
from medfuse.service.models import Model
from medfuse.service.queues import Queues
from medfuse.service.refusals import Refusal

log = logging.getLogger(__name__)

_LINES = 1000
_LATELY_S = 10.0  # that long a listing of the data folder is used again


@dataclass
class Tally:
    """What has been done since the service began, for /metrics and /logs."""

    jobs: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    requests: Counter[str] = field(default_factory=Counter)
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES))


class Desk:
    """`data`: the folder whose images may be named; `labels`: the one for label maps that people correct."""

    def __init__(
        self,
        models: Mapping[str, Model],
        store: Store,
        limits: Limits,
        *,
        data: Path | None = None,
        labels: Path | None = None,
        token: str | None = None,
    ) -> None:
        self.models, self.store, self.limits = models, store, limits
        self.data, self.labels, self.token = data, labels, token
        self.tally = Tally()
        self._turn = threading.Lock()
        self._looking = threading.Lock()
        self._seen: tuple[float, dict[str, Case]] = (0.0, {})
        self._held: dict[Job, ExitStack] = {}
        devices = max(len(model.trained) for model in models.values())
        self.queues = Queues(
            [
                worker({name: model.trained[n] for name, model in models.items()}, limits)
                for n in range(devices)
            ],
            limits,
            self._over,
        )

    def submit(self, order: Order, kept: Kept, *holds: Kept) -> Job:
        """A job in a queue; its folder, and what it `holds`, stay at least until it is over."""
        job = Job(order, kept, holds)
        stack = ExitStack()
        stack.enter_context(self.store.held(kept, *holds))
        kept.said["job"] = job
        with self._turn:
            self._held[job] = stack
        try:
            self.queues.add(job)
        except Refusal:
            self._let_go(job)
            raise
        return job

    def job(self, id: str) -> Job:
        """Raises Refusal."""
        found: Job = self.store.get("job", id).said["job"]
        return found

    def remove(self, job: Job) -> None:
        """It is cancelled, and all of it goes."""
        self.queues.cancel(job)
        self.store.remove(job.kept)

    def _over(self, job: Job) -> None:
        self._let_go(job)
        seconds = (job.ended or 0) - (job.began or job.ended or 0)
        with self._turn:
            self.tally.jobs[job.order.model, job.status] += 1
            self.tally.seconds[job.order.model] += seconds
        self.say(f"job {job.id[:8]} of {job.order.model}: {job.status} after {seconds:.2f} s")

    def _let_go(self, job: Job) -> None:
        with self._turn:
            held = self._held.pop(job, None)
        if held:
            held.close()

    def say(self, line: str) -> None:
        """A line for the log; it names no patient and no file."""
        from datetime import datetime

        self.tally.lines.append(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}")
        log.info("%s", line)

    def images(self) -> dict[str, Case]:
        """What lies in the data folder, by the names of its cases; as it was lately. Raises DataError."""
        if self.data is None:
            return {}
        with self._looking:
            seen, found = self._seen
            if not found or time.monotonic() - seen > _LATELY_S:
                found = self._look(self.data)
                self._seen = time.monotonic(), found
            return found

    def _look(self, data: Path) -> dict[str, Case]:
        channels = {model.trained[0].plan.channels for model in self.models.values()}
        found: dict[str, Case] = {}
        for names in channels:
            try:
                found |= {case.name: case for case in find_inputs([data], names)}
            except DataError as error:
                if len(channels) == 1 and "no volumes here" not in str(error):
                    raise
        return found

    def inside(self, text: str) -> Path:
        """A path below the data folder. Raises Refusal for any other."""
        if self.data is None:
            raise Refusal(403, "this service reads no folder; start it with --data FOLDER, or send the files")
        root = self.data.resolve()
        try:
            path = (root / text).resolve()
            there = path.is_relative_to(root) and path.exists()
        except (OSError, ValueError, RuntimeError):
            there = False
        if not there:
            raise Refusal(404, f"{text[:200]!r}: is not there in the data folder")
        return path

    def facts(self) -> dict[str, Any]:
        return {name: model.told for name, model in self.models.items()}
