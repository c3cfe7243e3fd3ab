"""What a user sees while medfuse works: stages, lines and progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

Advance = Callable[[int, str], None]
"""Called with what is done so far, and a few words."""


class Reporter:
    """Progress bars on a terminal; elsewhere a line every few seconds, so that logs stay readable."""

    def __init__(
        self, stream: TextIO | None = None, *, quiet: bool = False, every_seconds: float = 10.0
    ) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._every = every_seconds
        self._said: set[str] = set()

    def say(self, line: str) -> None:
        if not self._quiet:
            print(line, file=self._stream, flush=True)

    def say_once(self, line: str) -> None:
        """What would else be said again by every fold, or every seed."""
        if line not in self._said:
            self._said.add(line)
            self.say(line)

    @contextmanager
    def track(self, what: str, total: int) -> Iterator[Advance]:
        """Progress of one stage of `total` units."""
        if self._quiet:
            yield lambda done, note: None
        elif self._stream.isatty():
            with self._bar(what, total) as advance:
                yield advance
        else:
            yield self._lines(what, total)

    @contextmanager
    def _bar(self, what: str, total: int) -> Iterator[Advance]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=Console(file=self._stream)) as progress:
            task = progress.add_task(what, total=total, note="")
            yield lambda done, note: progress.update(task, completed=done, note=note)

    def _lines(self, what: str, total: int) -> Advance:
        last = time.monotonic()

        def advance(done: int, note: str) -> None:
            nonlocal last
            now = time.monotonic()
            if done >= total or now - last >= self._every:
                last = now
                self.say(f"  {what}: {100 * done // max(total, 1)} %{'  ' if note else ''}{note}")

        return advance
