"""Leading workers that share tasks (core.tasks): they are started, followed, replaced and ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from typing import Any, Protocol

from medfuse.core.board import DEAD_S, POLL_S, Board, Worker, pause
from medfuse.core.errors import MedfuseError, OutputError
from medfuse.core.files import make_folder
from medfuse.core.lock import locked
from medfuse.core.reporter import Advance, Reporter
from medfuse.core.tasks import FOLDER, Task, Tasks, end_tasks, ended_tasks, installed, write_tasks
from medfuse.core.told import Shown

log = logging.getLogger(__name__)

_ENDING_S = DEAD_S + 30
"""For workers of an earlier call to end."""
_LEAVING_S = 10.0
"""For workers that this call did not start to see that there is nothing left to do."""
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
    common: Mapping[str, Any] = {},
    keep: bool = False,
    instead: str = "choose another folder",
) -> dict[int, dict[str, Any]]:
    """What became of each task, by its number: its `state`, and what it made or why it failed.

    `start` makes so many workers. `what`: tasks are called, in the plural. `common`: given to all. Workers of
    an earlier call end first. `keep`: whether what they have done counts, where the tasks were the same ones,
    which holds where tasks say all that what they make depends on. Raises InUse where another process leads
    here, with what to do `instead`, and MedfuseError with the reason of workers that cannot work at all.
    """
    was_there = folder.exists()
    fleet = make_folder(folder / FOLDER)
    shared = Tasks(
        medfuse=installed(),
        kind=kind,
        where=Path.cwd(),
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        workers=workers,
        tasks=tuple(tasks),
        common=dict(common),
    )
    with locked(fleet, instead=instead):
        _take_over(folder, shared, keep=keep)
        board = Board(fleet, len(tasks))
        ended = False
        try:
            write_tasks(folder, shared)
            try:
                crew = start(min(workers, len(tasks)))
            except BaseException:  # nobody works there, nor will
                end_tasks(folder)
                ended = next(board.records(), None) is None
                raise
            try:
                with reporter.track(f"{len(tasks)} {what}", len(tasks)) as advance:
                    made = _follow(tasks, board, crew, reporter, advance)
                    ended = True
                    return made
            finally:
                end_tasks(folder)
                crew.end()
                _alive_after(fleet, _LEAVING_S)
        finally:
            if ended or not keep:
                rmtree(fleet, ignore_errors=True)
            with suppress(OSError):
                if not was_there:
                    folder.rmdir()  # where nothing was made in it


def _follow(
    tasks: Sequence[Task], board: Board, crew: Crew, reporter: Reporter, advance: Advance
) -> dict[int, dict[str, Any]]:
    """Until every task is settled."""
    settled: dict[int, dict[str, Any]] = {}
    in_vain, claims = 0, 0
    shown = Shown(board, [task.name for task in tasks], reporter)
    try:
        while True:
            looked = time.monotonic()
            for number, record in board.records(settled):
                settled[number] = record
                how = "" if record["state"] == "done" else " failed"
                advance(len(settled), f"{tasks[number].name}{how}")
            shown.look()
            if len(settled) == len(tasks):
                return settled
            for reason in reasons_of_lost(crew, board, "another carries on"):
                in_vain, claims = (in_vain + 1 if board.claims == claims else 0), board.claims
                if in_vain > _HOPELESS:
                    raise MedfuseError(f"workers end one after another: {reason}")
                crew.add()
            time.sleep(pause(time.monotonic() - looked))
    finally:
        shown.close()


def _take_over(folder: Path, shared: Tasks, *, keep: bool) -> None:
    """What an earlier call left is gone once its workers have ended, but for what it had done of the same.

    Raises OutputError where they do not end.
    """
    end_tasks(folder)
    fleet = folder / FOLDER
    if alive := _alive_after(fleet, _ENDING_S):
        raise OutputError(
            f"{folder}: {len(alive)} workers of an earlier call go on there, such as process {alive[0].pid} "
            f"on {alive[0].host}; end them, or wait until they have"
        )
    before = ended_tasks(folder) if keep else None
    same = before is not None and _as_work(before) == _as_work(shared)
    for name in ("claims", "over", "workers", "marks", "said", *(() if same else ("records",))):
        rmtree(fleet / name, ignore_errors=True)
    for number, record in Board(fleet, len(shared.tasks), make=False).records() if same else ():
        if record["state"] != "done":
            (fleet / "records" / f"{number}.json").unlink()


def _as_work(shared: Tasks) -> dict[str, Any]:
    """What there is to do, whoever does it and when."""
    return shared.model_dump(mode="json", exclude={"began", "workers"})


def _alive_after(fleet: Path, seconds: float) -> list[Worker]:
    """Workers that have not ended by then; none, and no longer waited, where all have."""
    board = Board(fleet, 0, make=False)
    until = time.monotonic() + seconds
    while alive := [worker for worker in board.workers() if worker.is_alive]:
        if time.monotonic() > until:
            break
        time.sleep(POLL_S)
    return alive


def reasons_of_lost(crew: Crew, board: Board, then: str) -> list[str]:
    """Why workers have ended since the last call, each of them buried, and told with what happens `then`; one
    reason more where nobody is left, and there is more to do."""
    ended = [*crew.ended()]
    for name, reason in ended:
        board.bury(name, reason)
        log.warning("worker %s was lost: %s; %s", name, reason, then)
    if not ended and not len(crew) and board.left:
        return ["none is left, and there is more to do"]
    return [reason for _, reason in ended]
