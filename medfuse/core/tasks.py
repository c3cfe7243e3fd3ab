"""Tasks that several processes share at one folder: trainings, trials, cases that are measured.

`FOLDER/.fleet` holds `tasks.json`, which says what there is to do, and the board on which they agree
(core.board). One of them leads: it writes the tasks, starts workers and collects what became of each
(core.leading). Workers take one after another (`take_part`), in the order in which they are listed, so the
longest come first.

A task is a name, which people read, and what it was given, as JSON. How tasks of a kind are done is a `Kind`,
which stands in the table of verbs/kinds.py:

    Kind(do=train, mark=how_far)        # `do(given, reporter)` returns what became of it, as JSON

What `do` owes to the others:
- Its process may be killed at any moment, and another, perhaps on another machine, is given the same task. So
  what is written is whole or absent (core.files), and what was finished is not done again.
- A worker that was thought to be dead may live. So what a task writes is locked (core.lock), by a lock that
  ends with its process; while another holds it (InUse) the task waits, and then does what is left.
- The same is returned whoever does it, and however often.
- A MedfuseError is what every other attempt would raise too: the task has failed, and the others go on. All
  else is tried again, three times without getting on.
`mark(given)` says how far a task is, in words that change as what outlives its process grows, such as the
time of its last checkpoint. An attempt that got on does not count as one in vain.

Tasks that are led with `keep` depend on nothing but what they were given: what was done before a call was
killed counts for the next one that shares the same tasks. Others find out themselves what is done already, as
trainings do.
"""

from __future__ import annotations

import signal
import time
from _thread import interrupt_main
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from medfuse.core.board import POLL_S, Board, remedy
from medfuse.core.errors import MedfuseError, OutputError
from medfuse.core.files import reported, write_text
from medfuse.core.json_text import read_json, validated
from medfuse.core.lock import InUse
from medfuse.core.repeated import repeated
from medfuse.core.reporter import Reporter
from medfuse.core.told import Told

FOLDER = ".fleet"
_WATCH_S = 1.0
_FILE, _ENDED = "tasks.json", "ended.json"
_MOST_BYTES = 2**30

Do = Callable[[Mapping[str, Any], Reporter], Mapping[str, Any]]


@dataclass(frozen=True)
class Kind:
    """How tasks of one kind are done."""

    do: Do
    mark: Callable[[Mapping[str, Any]], str] = lambda given: ""


class Task(BaseModel):
    """One task; `given` is JSON."""

    model_config = ConfigDict(frozen=True)

    name: str
    given: dict[str, Any]


class Tasks(BaseModel):
    """All that there is to do. kind: of each of them. where: the working directory that paths start at.

    common: what all of them are given besides.
    """

    model_config = ConfigDict(frozen=True)

    medfuse: str
    kind: str
    where: Path
    began: str
    workers: int
    tasks: tuple[Task, ...]
    common: dict[str, Any] = {}


def installed() -> str:
    """The version of medfuse, which all workers have in common."""
    return version("medfuse")


def has_tasks(folder: Path) -> bool:
    """Whether processes share tasks there."""
    return (folder / FOLDER / _FILE).is_file()


def read_tasks(folder: Path) -> Tasks:
    """What they share. Raises OutputError."""
    return _read(folder, _FILE)


def ended_tasks(folder: Path) -> Tasks | None:
    """What was shared there before; None where nothing was, or nobody can tell."""
    with suppress(OutputError):
        return _read(folder, _ENDED)
    return None


def _read(folder: Path, name: str) -> Tasks:
    path, what = folder / FOLDER / name, remedy(folder / FOLDER)
    content = read_json(path, raises=OutputError, remedy=what, most_bytes=_MOST_BYTES)
    return validated(Tasks, content, str(path), raises=OutputError, remedy=what)


def write_tasks(folder: Path, tasks: Tasks) -> None:
    """From now on workers know what there is to do."""
    write_text(folder / FOLDER / _FILE, tasks.model_dump_json())


def end_tasks(folder: Path) -> None:
    """Workers are to end."""
    if has_tasks(folder):
        with reported(folder):
            (folder / FOLDER / _FILE).replace(folder / FOLDER / _ENDED)


def take_part(
    folder: Path,
    kinds: Callable[[str], Kind],
    reporter: Reporter,
    *,
    is_wanted: Callable[[], bool] = lambda: True,
) -> tuple[int, int]:
    """Do tasks until there are none left; how many were done, and how many have failed.

    `is_wanted`: whether this worker is to go on; where it is not, it ends in the midst of a task.
    Raises OutputError where there are none, or of another version.
    """
    folder = folder.resolve()
    tasks = read_tasks(folder)
    if tasks.medfuse != installed():
        raise OutputError(
            f"{folder}: a fleet of medfuse {tasks.medfuse} works there, and this is {installed()}; "
            "install the same version on all machines"
        )
    if not tasks.where.is_dir():
        raise OutputError(
            f"{tasks.where}: is not there; workers need the folders of {folder} at their places"
        )
    kind = kinds(tasks.kind)
    board = Board(folder / FOLDER, len(tasks.tasks), mark=lambda number: kind.mark(given(number)))

    def given(number: int) -> dict[str, Any]:
        return {**tasks.common, **tasks.tasks[number].given}

    def goes_on() -> bool:
        return is_wanted() and has_tasks(folder)

    states: list[bool] = []
    with chdir(tasks.where), board.joined(), _ended_when(lambda: not goes_on()):
        while goes_on():
            number = board.take()
            if number is not None:
                task = Task(name=tasks.tasks[number].name, given=given(number))
                states.append(_do(task, number, kind.do, board, reporter, goes_on))
            elif board.left:
                board.doing()
                time.sleep(POLL_S)
            else:
                break
    return sum(states), len(states) - sum(states)


def _do(
    task: Task, number: int, do: Do, board: Board, reporter: Reporter, goes_on: Callable[[], bool]
) -> bool:
    """Whether it is done; the board is told what became of it."""
    reporter.say(f"{task.name}:")
    told, began = Told(board, number, task.name, reporter), time.monotonic()
    try:
        made = _in_turn(task, do, told, goes_on)
    except MedfuseError as error:
        if isinstance(error.__cause__, OSError | MemoryError):  # which may pass
            board.give_up(number, "; ".join(error.lines))
        else:
            board.settle(number, {"state": "failed", "lines": error.lines})
        return False
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        board.give_up(number, f"{type(error).__name__}: {said}")
        return False
    board.settle(number, {"state": "done", "made": made, "seconds": round(time.monotonic() - began, 3)})
    return True


def _in_turn(task: Task, do: Do, told: Told, goes_on: Callable[[], bool]) -> Mapping[str, Any]:
    """`do` it, as soon as no other process holds what it writes."""
    while True:
        try:
            return do(task.given, told)
        except InUse as error:
            if not goes_on():
                raise
            with told.track("waits:", 1) as advance:
                advance(0, error.lines[0].partition(";")[0])
                time.sleep(_WATCH_S)


@contextmanager
def _ended_when(is_over: Callable[[], bool]) -> Iterator[None]:
    """This process is ended as by SIGTERM, in the midst of what it does, once `is_over`."""

    def watch() -> bool:
        over = is_over()
        if over:
            interrupt_main(signal.SIGTERM)
        return over

    with repeated(watch, _WATCH_S, "watch"):
        yield


def faults(tasks: Sequence[Task], records: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """What went wrong, a line each, with the names of the tasks that it happened to."""
    found: dict[str, list[str]] = {}
    for number, record in sorted(records.items()):
        if record["state"] != "done":
            for line in record.get("lines") or [record.get("reason") or "no reason was told"]:
                found.setdefault(str(line), []).append(tasks[number].name)
    return [f"{line} ({', '.join(names)})" for line, names in found.items()]
