"""What a user sees while medfuse works: stages, lines and progress."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

Advance = Callable[[int, str], None]
"""Called with what is done so far, and a few words."""

ROOMY = 80  # columns of a terminal from which on times and a bar find room beside the words
_SELDOM = 60.0  # most seconds between two lines of a stage that takes long
_SHARE = 0.1  # of the time since a stage began: as much goes by until its next line


class Reporter:
    """Progress bars on a terminal; elsewhere a line now and then, so that logs stay readable.

    Stages may hold others, whose bars stand below theirs. Lines come above the bars. Off a terminal a stage
    inside another says nothing unless it takes long.
    """

    def __init__(
        self, stream: TextIO | None = None, *, quiet: bool = False, every_seconds: float = 10.0
    ) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._every = every_seconds
        self._said: set[str] = set()
        self._bars: Progress | None = None
        self._stages = 0
        self._turn = threading.RLock()

    def say(self, line: str) -> None:
        if self._quiet:
            return
        with self._turn:
            if self._bars is None:
                print(line, file=self._stream, flush=True)
            else:
                self._bars.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)

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
        elif self._is_terminal():
            with self._bar(what, total) as advance:
                yield advance
        else:
            self._stages += 1
            try:
                yield self._lines(what, total, inner=self._stages > 1)
            finally:
                self._stages -= 1

    def _is_terminal(self) -> bool:
        if not self._stream.isatty():
            return False
        from rich.console import Console

        return not Console(file=self._stream).is_dumb_terminal

    @contextmanager
    def _bar(self, what: str, total: int) -> Iterator[Advance]:
        if self._bars is not None:  # one display holds them all
            bars = self._bars
            task = bars.add_task(what, total=total, note="")
            try:
                yield lambda done, note: bars.update(task, completed=done, note=note)
            finally:
                bars.remove_task(task)
            return
        with _bars(self._stream) as bars:
            with self._turn:
                self._bars = bars
            try:
                task = bars.add_task(what, total=total, note="")
                yield lambda done, note: bars.update(task, completed=done, note=note)
            finally:
                with self._turn:
                    self._bars = None

    def _lines(self, what: str, total: int, *, inner: bool) -> Advance:
        began = last = time.monotonic()
        ended = False

        def advance(done: int, note: str) -> None:
            nonlocal last, ended
            now = time.monotonic()
            wait = max(self._every, min(_SELDOM, _SHARE * (now - began)))
            if not ended and (now - last >= wait or (done >= total and not inner)):
                last, ended = now, done >= total
                self.say(f"  {what}: {100 * done // max(total, 1)} %{'  ' if note else ''}{note}")

        return advance


def _bars(stream: TextIO) -> Progress:
    """A display of bars, each on one line whatever the width: a narrow terminal has the words alone."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Column

    console = Console(file=stream)

    def cut(**room: Any) -> Column:
        return Column(no_wrap=True, overflow="ellipsis", **room)

    share = TextColumn("{task.percentage:>3.0f}%", table_column=cut(min_width=4))
    note = TextColumn("{task.fields[note]}", markup=False, table_column=cut(ratio=2))
    if console.width < ROOMY:
        words = TextColumn("{task.description}", markup=False, table_column=cut(ratio=1))
        return Progress(words, share, note, console=console, expand=True)
    words = TextColumn("{task.description}", markup=False, table_column=cut(max_width=console.width // 3))
    bar = BarColumn(width := min(40, console.width // 5), table_column=cut(min_width=width))
    taken = TimeElapsedColumn(table_column=cut(min_width=7))
    left = TimeRemainingColumn(table_column=cut(min_width=7))
    return Progress(words, bar, share, taken, left, note, console=console, expand=True)
