"""What workers say of their tasks, from their processes to the terminal of the one that leads them.

Where a worker is goes with its heartbeat (core.board), its lines into `said/NUMBER.ATTEMPT` on the board.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from medfuse.core.board import Board, Worker
from medfuse.core.files import reported
from medfuse.core.reporter import Advance, Reporter

_FOLDER = "said"
_UNITS = 1000  # of a bar, whatever the stage


@dataclass
class _Stage:
    """A stage of a task, and the pace that it goes at."""

    what: str
    of: int
    done: int = 0
    note: str = ""
    began: float = field(default_factory=time.monotonic)
    first: int | None = None

    def advance(self, done: int, note: str) -> None:
        if self.first is None:  # what was done before, as where a training is carried on
            self.first, self.began = done, time.monotonic()
        self.done, self.note = done, note

    def seconds(self, units: int) -> float | None:
        """That so many units take; None while nothing is known of it."""
        new = self.done - (self.first or 0)
        return round((time.monotonic() - self.began) / new * units, 1) if new > 0 else None


class Told(Reporter):
    """What a worker reports of task `number`: to the board, and to its `own` terminal."""

    def __init__(self, board: Board, number: int, name: str, own: Reporter) -> None:
        super().__init__(quiet=True)
        self._board, self._name, self._own = board, name, own
        self._path = board.folder / _FOLDER / f"{number}.{board.attempt(number)}"
        self._within = [_Stage("at work", 1)]
        self._tell()

    def say(self, line: str) -> None:
        self._write(line, once=False)
        self._own.say(line)

    def say_once(self, line: str) -> None:
        self._write(line, once=True)
        self._own.say_once(line)

    @contextmanager
    def track(self, what: str, total: int) -> Iterator[Advance]:
        stage = _Stage(what, max(total, 1))
        self._within.append(stage)
        self._tell()
        with self._own.track(what, total) as own:

            def advance(done: int, note: str) -> None:
                stage.advance(done, note)
                self._tell()
                own(done, note)

            try:
                yield advance
            finally:
                self._within.remove(stage)
                self._tell()

    def _tell(self) -> None:
        """The outermost stage, which tells how far the task is, and what is done within it."""
        outer, *inner = self._within[1:] or self._within
        self._board.doing(
            case=self._name,
            what=", ".join(stage.what for stage in (outer, *inner)),
            done=outer.done,
            of=outer.of,
            note=outer.note,
            left_s=outer.seconds(outer.of - outer.done),
            whole_s=outer.seconds(outer.of),
        )

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
        self._bars: dict[tuple[str, str], tuple[ExitStack, Advance]] = {}

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
        alive = [worker for worker in self._board.workers() if worker.is_alive and worker.doing]
        at_work = {(worker.id, str(worker.doing.get("case"))): worker for worker in alive}
        for gone in self._bars.keys() - at_work.keys():
            self._bars.pop(gone)[0].close()
        for key, worker in at_work.items():
            self._bar(key, worker)(*_stage(worker))

    def close(self) -> None:
        for stack, _ in self._bars.values():
            stack.close()
        self._bars.clear()

    def _bar(self, key: tuple[str, str], worker: Worker) -> Advance:
        """Of a task, on a worker."""
        if key not in self._bars:
            place = "" if worker.host == socket.gethostname() else f" on {worker.host}"
            stack = ExitStack()
            bar = stack.enter_context(self._reporter.track(f"{key[1]}{place}", _UNITS))
            self._bars[key] = stack, bar
        return self._bars[key][1]

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


def where(worker: Worker) -> str:
    """What a worker of tasks is at, in words."""
    said = worker.doing
    try:
        share = 100 * int(said["done"]) // int(said["of"])
        note = f", {said['note']}" if said["note"] else ""
        return f"{said['case']}, {said['what']} {share} %{note}"
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return "begins"


def _stage(worker: Worker) -> tuple[int, str]:
    """How far it is with its stage, in thousandths, and in words."""
    said = worker.doing
    try:
        done = int(_UNITS * said["done"] / said["of"])
        return min(done, _UNITS - 1), f"{said['what']} {said['note']}".strip()
    except (KeyError, TypeError, ZeroDivisionError):
        return 0, ""


def seconds_left(workers: Sequence[Worker], taken_s: Sequence[float], untouched: int) -> float | None:
    """Until all is done: what is begun, at its pace, and tasks that nobody has begun; None if unknown.

    `taken_s`: the seconds of tasks that are done.
    """
    at_work = [worker.doing for worker in workers if worker.doing]
    known = [float(said["left_s"]) for said in at_work if isinstance(said.get("left_s"), int | float)]
    whole = [float(said["whole_s"]) for said in at_work if isinstance(said.get("whole_s"), int | float)]
    each = max([*whole, *([sum(taken_s) / len(taken_s)] if taken_s else [])], default=None)
    if each is None or not workers:
        return None
    unknown = len(at_work) - len(known)
    return max([(sum(known) + each * (unknown + untouched)) / len(workers), *known])
