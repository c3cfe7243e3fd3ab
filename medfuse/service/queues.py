"""One queue for each device: jobs in their order, and a thread that works on one at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from medfuse.service.jobs import Cancelled, Job
from medfuse.service.limits import Limits
from medfuse.service.refusals import Refusal

log = logging.getLogger(__name__)

Work = Callable[[Job], None]
"""Does a job on one device. Raises Cancelled; of anything else it tells the job itself."""


class Queues:
    """A queue for each of `works`. A job goes where fewest wait."""

    def __init__(self, works: Sequence[Work], limits: Limits, ended: Callable[[Job], None]) -> None:
        self._limits, self._ended = limits, ended
        self._lines = [_Line(work, self._over) for work in works]
        self._turn = threading.Lock()
        self._places = 0
        self._recent: deque[float] = deque(maxlen=20)

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for a job whose files are on their way, until the end of the block. Raises Refusal."""
        with self._turn:
            if self._places + self.waiting >= self._limits.queue:
                raise Refusal(
                    429, "the queue is full; try again later", retry_after=str(self.seconds_until_free)
                )
            self._places += 1
        try:
            yield
        finally:
            with self._turn:
                self._places -= 1

    @property
    def waiting(self) -> int:
        """How many jobs wait for their turn."""
        return sum(len(line.jobs) for line in self._lines)  # none of them is over: see `cancel`

    @property
    def running(self) -> int:
        return sum(line.job is not None for line in self._lines)

    @property
    def seconds_until_free(self) -> int:
        """About when the next place is free, by the time that jobs took lately."""
        usual = sum(self._recent) / len(self._recent) if self._recent else 10.0
        return max(1, min(600, round(usual / max(1, len(self._lines)))))

    def add(self, job: Job) -> None:
        """Raises Refusal once the service ends."""
        line = min(self._lines, key=lambda line: len(line.jobs) + (line.job is not None))
        line.add(job)

    def cancel(self, job: Job) -> None:
        """It leaves its queue, or ends as soon as the network has done with the windows that it has."""
        job.cancel()
        if any(line.drop(job) for line in self._lines):
            self._over(job)

    def ahead_of(self, job: Job) -> int:
        """How many jobs come before it."""
        for line in self._lines:
            waiting = list(line.jobs)
            if job in waiting:
                return waiting.index(job) + (line.job is not None)
        return 0

    def _over(self, job: Job) -> None:
        if job.began and job.ended:
            self._recent.append(job.ended - job.began)
        self._ended(job)

    def close(self, wait_s: float) -> bool:
        """No job is taken, and those that are there are cancelled; whether all threads have ended."""
        for line in self._lines:
            line.stop()
        until = time.monotonic() + wait_s
        return all(line.join(max(0.0, until - time.monotonic())) for line in self._lines)


class _Line:
    def __init__(self, work: Work, over: Callable[[Job], None]) -> None:
        self._work, self._over = work, over
        self.jobs: deque[Job] = deque()
        self.job: Job | None = None
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="labelling", daemon=True)
        self._thread.start()

    def add(self, job: Job) -> None:
        with self._change:
            if self._closed:
                raise Refusal(503, "the service is ending; send it again when it is back")
            self.jobs.append(job)
            self._change.notify()

    def drop(self, job: Job) -> bool:
        """Whether it was waiting here."""
        with self._change:
            if job not in self.jobs:
                return False
            self.jobs.remove(job)
            return True

    def stop(self) -> None:
        with self._change:
            self._closed = True
            for job in (*self.jobs, self.job):
                if job is not None:
                    job.cancel()
            self._change.notify()

    def join(self, wait_s: float) -> bool:
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                if not job.is_over:
                    job.tell(status="running", began=time.time())
                    job.check()
                    self._work(job)
            except Cancelled:
                job.tell(status="cancelled")
            except Exception as error:
                log.exception("job %s failed unexpectedly", job.id)
                job.tell(status="failed", errors=(f"{type(error).__name__} (please report it)",))
            finally:
                with self._change:
                    self.job = None
                self._over(job)
                del job

    def _next(self) -> Job | None:
        with self._change:
            while not self.jobs and not self._closed:
                self._change.wait()
            if not self.jobs:
                return None
            self.job = self.jobs.popleft()
            return self.job
