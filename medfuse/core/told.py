"""What workers say of their tasks, from their processes to the terminal of the one that leads them.

Where a worker is goes with its heartbeat (core.board), its lines into `said/NUMBER.ATTEMPT` on the board.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from medfuse.core.board import Board, Worker
from medfuse.core.files import reported
from medfuse.core.reporter import Advance, Reporter

_FOLDER = "said"
_UNITS = 1000  # of a bar, whatever the stage


class Told(Reporter):
    """What a worker reports of task `number`: to the board, and to its `own` terminal."""

    def __init__(self, board: Board, number: int, name: str, own: Reporter) -> None:
        super().__init__(quiet=True)
        self._board, self._name, self._own = board, name, own
        self._path = board.folder / _FOLDER / f"{number}.{board.attempt(number)}"
        self._now: list[dict[str, Any]] = []
        self._tell({"what": "begins", "done": 0, "of": 1, "note": ""})

    def say(self, line: str) -> None:
        self._write(line, once=False)
        self._own.say(line)

    def say_once(self, line: str) -> None:
        self._write(line, once=True)
        self._own.say_once(line)

    @contextmanager
    def track(self, what: str, total: int) -> Iterator[Advance]:
        stage: dict[str, Any] = {"what": what, "done": 0, "of": max(total, 1), "note": ""}
        self._now.append(stage)
        self._tell(stage)

        with self._own.track(what, total) as own:

            def advance(done: int, note: str) -> None:
                stage.update(done=done, note=note)
                self._tell(stage)
                own(done, note)

            try:
                yield advance
            finally:
                self._now.pop()
                if self._now:
                    self._tell(self._now[-1])

    def _tell(self, stage: dict[str, Any]) -> None:
        self._board.doing(case=self._name, **stage)

    def _write(self, line: str, *, once: bool) -> None:
        with reported(self._path):
            self._path.parent.mkdir(exist_ok=True)
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps([line, once]) + "\n")


class Shown:
    """What the workers of a board say, as lines and bars of a terminal; `names`: of its tasks."""

    def __init__(self, board: Board, names: list[str], reporter: Reporter) -> None:
        self._board, self._names, self._reporter = board, names, reporter
        self._read: dict[str, int] = {}
        self._over = set[str]()
        self._bars: dict[str, tuple[ExitStack, Advance]] = {}

    def look(self) -> None:
        """Show what is new."""
        for path in sorted((self._board.folder / "over").glob("*.*")):
            if path.name not in self._over and path.name[0] != ".":
                self._over.add(path.name)
                with suppress(OSError):
                    self._reporter.say(f"{self._name(path)}: {path.read_text(encoding='utf-8')}")
        for path in sorted((self._board.folder / _FOLDER).glob("*.*")):
            for line, once in self._lines(path):
                if once:
                    self._reporter.say_once(line)
                else:
                    self._reporter.say(f"{self._name(path)}: {line.strip()}")
        workers = {w.id: w for w in self._board.workers() if w.is_alive and w.doing}
        for gone in self._bars.keys() - workers.keys():
            self._bars.pop(gone)[0].close()
        for worker in workers.values():
            done, note = _where(worker)
            self._bar(worker)(done, note)

    def close(self) -> None:
        for stack, _ in self._bars.values():
            stack.close()
        self._bars.clear()

    def _bar(self, worker: Worker) -> Callable[[int, str], None]:
        if worker.id not in self._bars:
            stack = ExitStack()
            bar = stack.enter_context(self._reporter.track(f"{worker.host} {worker.pid}", _UNITS))
            self._bars[worker.id] = stack, bar
        return self._bars[worker.id][1]

    def _name(self, path: Path) -> str:
        """Of the task that a file on the board is about."""
        number = path.name.partition(".")[0]
        return self._names[int(number)] if number.isdecimal() else number

    def _lines(self, path: Path) -> Iterator[tuple[str, bool]]:
        """Whole lines that were not there before."""
        start = self._read.get(path.name, 0)
        with suppress(OSError, ValueError, TypeError):
            with open(path, "rb") as file:
                file.seek(start)
                whole = file.read().rpartition(b"\n")[0]
            self._read[path.name] = start + len(whole) + bool(whole)
            for text in whole.splitlines():
                line, once = json.loads(text)
                yield str(line), bool(once)


def _where(worker: Worker) -> tuple[int, str]:
    """How far it is with its stage, in thousandths, and in words."""
    said = worker.doing
    try:
        done = int(_UNITS * said["done"] / said["of"])
        return min(done, _UNITS - 1), f"{said['case']}, {said['what']} {said['note']}".strip()
    except (KeyError, TypeError, ZeroDivisionError):
        return 0, ""
