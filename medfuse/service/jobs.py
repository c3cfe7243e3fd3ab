"""Jobs: what is to be labelled, where it stands, and who waits for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medfuse.api import Case
from medfuse.service.kept import Kept
from medfuse.volumes.dicom.series import ALL, Scans

if TYPE_CHECKING:
    from medfuse.volumes.dicom.seg import SegKind

Status = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")


class Cancelled(BaseException):
    """Work on a job stops here: nobody wants it any more. No fault of its case."""


@dataclass(frozen=True)
class Order:
    """What a client wants of `model`: `inputs`, as `medfuse infer` takes them, or `cases` that are known.

    `sent`: the folder that the client's files are in; elsewhere they are the service's own. `one`: whether
    several cases are a mistake.
    """

    model: str
    inputs: tuple[Path, ...] = ()
    cases: tuple[Case, ...] = ()
    sent: Path | None = None
    formats: tuple[str, ...] = ()
    seg_type: SegKind = "labelmap"
    scans: Scans = ALL
    strict: bool = False
    statistics: bool = False
    one: bool = False


@dataclass(eq=False)
class Job:
    """`kept`: its folder. Any thread may ask and tell; `wait` is for the service's own loop."""

    order: Order
    kept: Kept
    holds: tuple[Kept, ...] = ()
    status: Status = "queued"
    progress: float = 0.0
    errors: tuple[str, ...] = ()
    cases: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    began: float | None = None
    ended: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self.version = 0

    @property
    def id(self) -> str:
        return self.kept.id

    @property
    def results(self) -> Path:
        return self.kept.folder / "result"

    @property
    def is_over(self) -> bool:
        return self.status in ENDED

    def tell(self, **now: Any) -> None:
        """It has come so far; what has ended stays so."""
        with self._turn:
            if self.is_over:
                return
            if self._stop.is_set() and now.get("status") in ("done", "failed"):
                now = {"status": "cancelled"}
            for name, value in now.items():
                setattr(self, name, value)
            if self.is_over:
                self.ended = time.time()
            self.version += 1
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            with suppress(RuntimeError):  # a loop that has ended
                loop.call_soon_threadsafe(event.set)

    def cancel(self) -> None:
        """It ends as soon as the network has done with the windows that it has."""
        self._stop.set()
        if self.status == "queued":
            self.tell(status="cancelled")

    def check(self) -> None:
        """Raises Cancelled."""
        if self._stop.is_set():
            raise Cancelled

    async def wait(self, version: int) -> None:
        """Until it is another than `version`."""
        event = asyncio.Event()
        with self._turn:
            if self.version != version:
                return
            self._waiting.append((asyncio.get_running_loop(), event))
        await event.wait()

    async def end(self) -> None:
        """Until it is over."""
        while not self.is_over:
            await self.wait(self.version)


def shown(lines: Sequence[str], *folders: Path) -> tuple[str, ...]:
    """What went wrong, without the places on this machine where clients' files lie."""
    made = []
    for line in lines:
        for folder in folders:
            line = line.replace(f"{folder}/", "").replace(str(folder), "the files")
        made.append(line)
    return tuple(made)
