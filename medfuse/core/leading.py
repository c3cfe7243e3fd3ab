"""Leading workers that share tasks (core.tasks): they are started, followed, replaced and ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from typing import Any, Protocol

from medfuse.core.board import Board
from medfuse.core.errors import MedfuseError, OutputError
from medfuse.core.files import make_folder
from medfuse.core.lock import locked
from medfuse.core.reporter import Advance, Reporter
from medfuse.core.tasks import FOLDER, POLL_S, Task, Tasks, end_tasks, installed, write_tasks
from medfuse.core.told import Shown

_ENDING_S = 60.0
"""For workers of an earlier call to end."""
_HOPELESS = 5
"""Workers that end one after another, while none of them begins a task."""


class Crew(Protocol):
    """Workers that were started."""

    def __len__(self) -> int:
        """How many go on."""

    def ended(self) -> Sequence[tuple[str, str]]:
        """Those that have ended before their work was done, since the last call: name and reason."""

    def add(self) -> None:
        """One more."""

    def end(self) -> None:
        """All of them end."""


def lead(
    folder: Path,
    kind: str,
    tasks: Sequence[Task],
    start: Callable[[int], Crew],
    workers: int,
    *,
    what: str,
    reporter: Reporter,
    instead: str = "choose another folder",
) -> dict[int, dict[str, Any]]:
    """What became of each task, by its number: its `state`, and what it made or why it failed.

    `start` makes so many workers. `what`: tasks are called, in the plural. Workers of an earlier call end
    first. Raises InUse where another process leads here, with what to do `instead`, and MedfuseError with the
    reason of workers that cannot work at all.
    """
    fleet = make_folder(folder / FOLDER)
    with locked(fleet, instead=instead):
        end_tasks(folder)
        _wait_for_others(fleet)
        board = Board(fleet, len(tasks))
        try:
            write_tasks(
                folder,
                Tasks(
                    medfuse=installed(),
                    kind=kind,
                    where=Path.cwd(),
                    began=datetime.now(UTC).isoformat(timespec="seconds"),
                    workers=workers,
                    tasks=tuple(tasks),
                ),
            )
            crew = start(min(workers, len(tasks)))
            try:
                with reporter.track(f"{len(tasks)} {what}", len(tasks)) as advance:
                    return _follow(tasks, board, crew, reporter, advance)
            finally:
                end_tasks(folder)
                crew.end()
        finally:
            rmtree(fleet, ignore_errors=True)


def _follow(
    tasks: Sequence[Task], board: Board, crew: Crew, reporter: Reporter, advance: Advance
) -> dict[int, dict[str, Any]]:
    """Until every task is settled."""
    settled: dict[int, dict[str, Any]] = {}
    in_vain, claims = 0, 0
    shown = Shown(board, [task.name for task in tasks], reporter)
    try:
        while True:
            for number, record in board.records(settled):
                settled[number] = record
                how = "" if record["state"] == "done" else " failed"
                advance(len(settled), f"{tasks[number].name}{how}")
            shown.look()
            if len(settled) == len(tasks):
                return settled
            ended = [*crew.ended()]
            if not ended and not len(crew) and board.left:
                ended = [("", "none is left, and there is more to do")]
            for name, reason in ended:
                board.bury(name, reason)
                in_vain, claims = (in_vain + 1 if board.claims == claims else 0), board.claims
                if in_vain > _HOPELESS:
                    raise MedfuseError(f"workers end one after another: {reason}")
                crew.add()
            time.sleep(POLL_S)
    finally:
        shown.close()


def _wait_for_others(fleet: Path) -> None:
    """What an earlier call left is gone, once its workers have ended. Raises OutputError if they do not."""
    board = Board(fleet, 0, make=False)
    until = time.monotonic() + _ENDING_S
    while alive := [worker for worker in board.workers() if worker.is_alive]:
        if time.monotonic() > until:
            raise OutputError(
                f"{fleet.parent}: {len(alive)} workers of an earlier call go on there, such as process "
                f"{alive[0].pid} on {alive[0].host}; end them, or wait until they have"
            )
        time.sleep(POLL_S)
    for name in ("claims", "over", "records", "workers", "marks", "said"):
        rmtree(fleet / name, ignore_errors=True)
