"""A folder in which processes of any machines agree who works on which case, by files alone.

    claims/7.1     case 7 is claimed for the first time: made exclusively, and never removed; says by whom
    over/7.1       why that attempt has ended without a result
    records/7.json what became of case 7: written once it is whole; the case is settled
    workers/ID     a worker; its time is its heartbeat, its content where it is and what its engine calls it
    marks/7.1      how far the case was when that attempt began, where that can be said

An attempt whose worker is dead gives way to the next one, `claims/7.2`, which again only one can make. What
dies three times, no farther than before, is set aside with the reasons. Times are those of the disk alone, so
clocks may differ.

Nothing grows with the cases but the folders: whoever takes one asks for a few files (cases are claimed in
order, so the front is found by doubling steps), and what a lost worker held is taken over on the way, as the
longest cases come first and would be the end of everything.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfuse.core.crew import name_of_worker
from medfuse.core.errors import OutputError
from medfuse.core.files import put_json, put_text, reported
from medfuse.core.json_text import read_json, validated
from medfuse.core.patience import patient
from medfuse.core.repeated import repeated

ATTEMPTS = 3
BEAT_S = 2.0
"""Seconds between two heartbeats."""
DEAD_S = 60.0
"""Seconds without a heartbeat after which a worker counts as dead."""
LOOK_S = 30.0
"""Seconds between two looks for cases whose attempts have ended while others are still untouched."""
POLL_S = 0.2
"""Seconds between two looks at a board."""
_SET_ASIDE = "set aside after "
_FOLDERS = ("claims", "over", "records", "workers", "marks")


@dataclass(frozen=True)
class Worker:
    """A worker as its file tells.

    name: what its engine calls it. quiet_s: since its last heartbeat, by the disk's own time. holds: the
    cases that it had then.
    """

    id: str
    name: str
    host: str
    pid: int
    quiet_s: float
    doing: Mapping[str, Any]
    holds: tuple[int, ...] = ()

    @property
    def is_alive(self) -> bool:
        if self.quiet_s > DEAD_S:
            return False
        return self.host != socket.gethostname() or _runs(self.pid)


def pause(looked_s: float) -> float:
    """Seconds until the next look at a folder, of which the last one took so long."""
    return max(POLL_S, 20 * looked_s)


def is_set_aside(reason: str) -> bool:
    """Whether it is the reason of a case that was tried as often as can be."""
    return reason.startswith(_SET_ASIDE)


def set_aside(tries: Iterable[str], attempts: int = ATTEMPTS) -> str:
    """The reason of such a case, from those of its attempts."""
    return f"{_SET_ASIDE}{attempts} attempts: {'; '.join(dict.fromkeys(tries))}"


def remedy(folder: Path) -> str:
    """What to do where a file of a board in `folder` cannot be read."""
    return f"remove {folder}, and run the same command again"


class Board:
    """The board in `folder`, for cases 0 … `cases` - 1, which are taken in this order.

    `make`: whether its folders are made, which whoever only looks leaves alone. `mark`: how far a case is, in
    words that change as what outlives its worker grows; attempts that got on do not count against it.
    """

    def __init__(
        self, folder: Path, cases: int, *, make: bool = True, mark: Callable[[int], str] = lambda case: ""
    ) -> None:
        self.folder, self.cases, self._mark = folder, cases, mark
        self._id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._name = name_of_worker()
        self._mine: dict[int, int] = {}
        self._held: set[int] = set()
        self._next = 0
        self._looked = time.monotonic()
        self._doing: dict[str, Any] = {}
        self._turn = threading.Lock()
        self._leave: Callable[[], None] | None = None
        for name in _FOLDERS if make else ():
            with reported(folder / name):
                (folder / name).mkdir(parents=True, exist_ok=True)

    # ---- a worker

    @contextmanager
    def joined(self) -> Iterator[None]:
        """This process is a worker: its heart beats until the block ends."""
        if self._leave is not None:  # it beats already, and goes on to
            yield
            return
        self.join()
        try:
            yield
        finally:
            self.leave()

    def join(self) -> None:
        """This process is a worker from now on: its heart beats until it leaves."""

        def beat() -> None:
            with suppress(OSError):  # a disk may be away for a while
                self._beat()

        def end() -> None:
            with suppress(OSError):
                self._place.unlink()

        self._beat()
        if self._name:  # its engine has started it again
            self.bury(self._name, "its worker was lost, and started again")
        held = ExitStack()
        held.callback(end)
        held.enter_context(repeated(beat, BEAT_S, "heartbeat"))
        self._leave = held.close

    def leave(self) -> None:
        """It is none any more, if it was one."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    @patient
    def take(self) -> int | None:
        """A case that nobody works on, for this worker; None where there is none now (see `left`)."""
        if (number := self._abandoned()) is not None:
            return number
        while (number := self._front()) < self.cases:
            self._next = number + 1
            if self._claim(number, 1):
                return number
        self._next = self.cases
        return next((number for number in self._open() if self._take_over(number)), None)

    @property
    @patient
    def left(self) -> bool:
        """Whether there is a case that is not settled."""
        return next(self._open(), None) is not None

    @property
    def claims(self) -> int:
        """How many attempts have begun at all."""
        return len(_entries(self.folder / "claims"))

    @property
    def untouched(self) -> int:
        """How many cases nobody has claimed yet, or more."""
        return self.cases - self._next

    @patient
    def holds(self, number: int) -> bool:
        """Whether the newest claim on a case is this worker's."""
        mine = self._mine.get(number)
        return mine is not None and not self._claim_path(number, mine + 1).exists()

    def attempt(self, number: int) -> int:
        """Which attempt at a case is this worker's."""
        return self._mine[number]

    @patient
    def settle(self, number: int, record: Mapping[str, Any]) -> None:
        """What became of a case. A worker that was taken for dead may tell once more; one record stays."""
        put_json(self._record_path(number), {**record, "attempt": self._mine.get(number)})
        self._held.discard(number)

    @patient
    def give_up(self, number: int, reason: str) -> None:
        """This attempt has failed for a reason that may pass. The last one settles the case."""
        attempt = self._mine[number]
        self._note_over(number, attempt, reason)
        if self._in_vain(number, attempt) >= ATTEMPTS:
            self._set_aside(number)
        del self._mine[number]
        self._held.discard(number)

    def doing(self, **now: Any) -> None:
        """Where this worker is, for whoever looks; told with the next heartbeat."""
        with self._turn:
            self._doing = now

    # ---- whoever looks

    def records(self, known: Mapping[int, Any] = {}) -> Iterator[tuple[int, dict[str, Any]]]:
        """Cases that are settled, and how, but those in `known`.

        What a machine that crashed has left empty is gone then, and its case is not settled.
        """
        for entry in _entries(self.folder / "records"):
            name, _, end = entry.name.partition(".")
            if end == "json" and name.isdecimal() and int(name) not in known and int(name) < self.cases:
                path = Path(entry.path)
                if path.stat().st_size:
                    yield int(name), self._record(path)
                else:
                    path.unlink(missing_ok=True)

    def _record(self, path: Path) -> dict[str, Any]:
        how: dict[str, Any] = {"raises": OutputError, "remedy": remedy(self.folder)}
        record = validated(dict[str, Any], read_json(path, **how), str(path), **how)
        if not isinstance(record.get("state"), str):
            raise OutputError(f"{path}: says no state; {remedy(self.folder)}")
        return record

    def workers(self, *, quiet_s: float = 0.0) -> list[Worker]:
        """Those that were not heard of for so long."""
        entries = [entry for entry in _entries(self.folder / "workers") if entry.name[0] != "."]
        found, now = [], self._disk_time() if entries else 0.0
        for entry in entries:
            with suppress(OSError, ValueError, KeyError, TypeError):  # one that has just ended
                quiet = max(0.0, now - entry.stat().st_mtime)
                if quiet < quiet_s:
                    continue
                said = json.loads(Path(entry.path).read_text(encoding="utf-8"))
                about = {name: said[name] for name in ("name", "host", "pid", "doing")}
                holds = tuple(map(int, said["holds"]))
                found.append(Worker(entry.name, **about, quiet_s=quiet, holds=holds))
        return found

    @patient
    def bury(self, name: str, reason: str) -> None:
        """The worker of a name has ended without a word; others need not wait for its heart to stop.

        One of this machine that goes on all the same is left alone.
        """
        here = socket.gethostname()
        for worker in self.workers():
            gone = worker.host != here or not _runs(worker.pid)
            if name and worker.name == name and worker.id != self._id and gone:
                for number, attempt, by in self._claims_in_force():
                    if by == worker.id:
                        self._note_over(number, attempt, reason)
                with suppress(OSError):
                    (self.folder / "workers" / worker.id).unlink()

    def tries(self, number: int) -> list[str]:
        """Why earlier attempts at a case have ended."""
        found = []
        for attempt in range(1, self._newest(number) + 1):
            with suppress(OSError):
                found.append(self._over_path(number, attempt).read_text(encoding="utf-8"))
        return found

    # ---- claims

    def _open(self) -> Iterator[int]:
        settled = {
            int(entry.name.partition(".")[0])
            for entry in _entries(self.folder / "records")
            if entry.name.partition(".")[0].isdecimal()
        }
        return (number for number in range(self.cases) if number not in settled)

    def _front(self) -> int:
        """The first case that nobody has claimed, as they are claimed in order; a gap waits for the end."""
        claimed, free, step = self._next - 1, self._next, 1
        while free < self.cases and self._claim_path(free, 1).exists():
            claimed, free, step = free, min(free + step, self.cases), 2 * step
        while free - claimed > 1:
            middle = (claimed + free) // 2
            if self._claim_path(middle, 1).exists():
                claimed = middle
            else:
                free = middle
        return free

    def _abandoned(self) -> int | None:
        """A case of a dead worker, or one that failed a while ago for a reason that may have passed."""
        if time.monotonic() - self._looked < LOOK_S:
            return None
        found = next((number for number in self._to_try_again() if self._take_over(number)), None)
        if found is None:
            self._looked = time.monotonic()
        return found

    def _to_try_again(self) -> Iterator[int]:
        for worker in self.workers(quiet_s=DEAD_S):
            yield from (number for number in worker.holds if not self._record_path(number).exists())
        ended = _entries(self.folder / "over")
        now = self._disk_time() if ended else 0.0
        for entry in ended:
            with suppress(OSError, ValueError):  # one that is being written
                number = int(entry.name.partition(".")[0])
                if now - entry.stat().st_mtime > DEAD_S and not self._record_path(number).exists():
                    yield number

    def _take_over(self, number: int) -> bool:
        """Whether a case whose newest attempt has ended, or lost its worker, is this worker's now."""
        attempt = self._newest(number)
        if attempt and self._over_path(number, attempt).exists():
            pass
        elif attempt and (reason := self._lost(number, attempt)):
            self._note_over(number, attempt, reason)
        elif attempt:
            return False
        if self._in_vain(number, attempt) >= ATTEMPTS:
            self._set_aside(number)
            return False
        return self._claim(number, attempt + 1)

    def _claim(self, number: int, attempt: int) -> bool:
        path = self._claim_path(number, attempt)
        with reported(path):
            try:
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                return False
        with open(handle, "w", encoding="utf-8") as file:
            file.write(self._id)
        if self._record_path(number).exists():
            return False
        if mark := self._mark(number):
            put_text(self._mark_path(number, attempt), mark)
        self._mine[number] = attempt
        self._held.add(number)
        return True

    def _newest(self, number: int) -> int:
        attempt = 0
        while self._claim_path(number, attempt + 1).exists():
            attempt += 1
        return attempt

    def _in_vain(self, number: int, newest: int) -> int:
        """How many attempts, up to the newest, began where the case still is."""
        now, attempt = self._mark(number), newest
        while attempt and self._marked(number, attempt) == now:
            attempt -= 1
        return newest - attempt

    def _marked(self, number: int, attempt: int) -> str:
        with suppress(OSError):
            return self._mark_path(number, attempt).read_text(encoding="utf-8")
        return ""

    def _lost(self, number: int, attempt: int) -> str:
        """Why a claim is nobody's any more; "" where its worker lives."""
        path = self._claim_path(number, attempt)
        by = path.read_text(encoding="utf-8")
        if not by:  # made, and not yet signed; or its worker died just then
            return "its worker ended" if self._disk_time() - path.stat().st_mtime > DEAD_S else ""
        if by == self._id:
            return "" if number in self._mine else "its worker gave it up"
        worker = next((one for one in self.workers() if one.id == by), None)
        if worker is None:
            return "its worker ended"
        return "" if worker.is_alive else f"its worker on {worker.host} was not heard of any more"

    def _claims_in_force(self) -> Iterator[tuple[int, int, str]]:
        for entry in _entries(self.folder / "claims"):
            number, attempt = map(int, entry.name.split("."))
            if attempt == self._newest(number) and not self._record_path(number).exists():
                with suppress(OSError):
                    yield number, attempt, Path(entry.path).read_text(encoding="utf-8")

    def _note_over(self, number: int, attempt: int, reason: str) -> None:
        path = self._over_path(number, attempt)
        if not path.exists():
            put_text(path, reason)

    def _set_aside(self, number: int) -> None:
        self.settle(
            number, {"state": "failed", "reason": set_aside(self.tries(number), self._newest(number))}
        )

    def _claim_path(self, number: int, attempt: int) -> Path:
        return self.folder / "claims" / f"{number}.{attempt}"

    def _over_path(self, number: int, attempt: int) -> Path:
        return self.folder / "over" / f"{number}.{attempt}"

    def _mark_path(self, number: int, attempt: int) -> Path:
        return self.folder / "marks" / f"{number}.{attempt}"

    def _record_path(self, number: int) -> Path:
        return self.folder / "records" / f"{number}.json"

    # ---- time

    @property
    def _place(self) -> Path:
        return self.folder / "workers" / self._id

    def _beat(self) -> None:
        with self._turn:
            now = {"doing": dict(self._doing), "holds": list(self._held)}
        about = {"name": self._name, "host": socket.gethostname(), "pid": os.getpid(), **now}
        put_json(self._place, about)

    def _disk_time(self) -> float:
        """The time as the disk has it, by which heartbeats are judged."""
        probe = self.folder / f"time-{secrets.token_hex(4)}"
        with reported(probe):
            probe.touch()
            seconds = probe.stat().st_mtime
            probe.unlink(missing_ok=True)
        return seconds


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, if it is there."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except FileNotFoundError:
        return []


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    try:  # a process that ended, and that nobody has asked about yet
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True
