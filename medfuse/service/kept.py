"""What a service keeps for its clients, folder by folder, until nobody has asked for it for a while."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medfuse.core.files import claimed, make_folder, remove_leftovers, reported
from medfuse.core.memory import bytes_text
from medfuse.service.limits import Limits
from medfuse.service.refusals import Refusal

Kind = Literal["job", "session", "image"]

_LIVE = "serve-"


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder of this process, which nobody else may read; it is gone at the end, and those that killed
    processes left are gone now. Raises OutputError."""
    home = Path(tempfile.gettempdir()) / f"medfuse-service-{os.getuid() if hasattr(os, 'getuid') else 0}"
    with reported(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if home.is_symlink() or (hasattr(os, "getuid") and home.stat().st_uid != os.getuid()):
            raise PermissionError(13, "belongs to somebody else", str(home))
        home.chmod(0o700)
    make_folder(home)
    remove_leftovers(home, _LIVE)
    with reported(home):
        folder = Path(tempfile.mkdtemp(prefix=_LIVE, dir=home))
    try:
        with claimed(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(eq=False)
class Kept:
    """A folder with what one client sent or is to get. `said`: what is known of it. `busy`: how many work on
    it."""

    kind: Kind
    id: str
    folder: Path
    keep_s: float
    used: float = field(default_factory=time.monotonic)
    made: float = field(default_factory=time.time)
    busy: int = 0
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def left_s(self) -> float:
        """Seconds until it goes."""
        return self.keep_s if self.busy else self.used + self.keep_s - time.monotonic()


class Store:
    """All that is kept. Any thread may use it."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder = folder
        self._limits = limits
        self._kept: dict[tuple[Kind, str], Kept] = {}
        self._turn = threading.RLock()

    def add(self, kind: Kind, *, keep_s: float | None = None) -> Kept:
        """A new folder, under a name that is not to be guessed. Raises Refusal where the disk has no room."""
        self.sweep()
        if (taken := self.bytes) >= self._limits.disk:
            raise Refusal(
                507,
                f"{bytes_text(taken)} are kept, which is all that is allowed; delete what is not needed any "
                "more, or wait until it goes by itself",
            )
        name = secrets.token_urlsafe(16)
        with reported(self._folder):
            (self._folder / name).mkdir(mode=0o700)
        longest = self._limits.keep_s
        made = Kept(kind, name, self._folder / name, min(keep_s or longest, longest))
        with self._turn:
            self._kept[kind, name] = made
        return made

    def rename(self, kept: Kept, id: str) -> None:
        """It is found under another name, in place of what was."""
        with self._turn:
            self._kept.pop((kept.kind, kept.id), None)
            before = self._kept.pop((kept.kind, id), None)
            kept.id = id
            self._kept[kept.kind, id] = kept
        if before:
            self._delete(before)

    def get(self, kind: Kind, id: str) -> Kept:
        """Raises Refusal where there is none, or it has gone."""
        with self._turn:
            found = self._kept.get((kind, id))
            if found is None or (not found.busy and found.left_s <= 0):
                raise Refusal(404, f"there is no {kind} of this name; it may have gone meanwhile")
            found.used = time.monotonic()
            return found

    def all(self, kind: Kind) -> list[Kept]:
        with self._turn:
            return [kept for kept in self._kept.values() if kept.kind == kind]

    @contextmanager
    def held(self, *some: Kept) -> Iterator[None]:
        """None of these goes before the end of the block."""
        with ExitStack() as stack:
            for kept in some:
                with self._turn:
                    kept.busy += 1
                stack.callback(self._let_go, kept)
            yield

    def _let_go(self, kept: Kept) -> None:
        with self._turn:
            kept.busy -= 1
            kept.used = time.monotonic()
            gone = self._kept.get((kept.kind, kept.id)) is not kept and not kept.busy
        if gone:
            shutil.rmtree(kept.folder, ignore_errors=True)

    def remove(self, kept: Kept) -> None:
        with self._turn:
            if self._kept.get((kept.kind, kept.id)) is kept:
                del self._kept[kept.kind, kept.id]
        self._delete(kept)

    def _delete(self, kept: Kept) -> None:
        if not kept.busy:  # or it goes when the last has let go
            shutil.rmtree(kept.folder, ignore_errors=True)

    def sweep(self) -> None:
        """What nobody has asked for is gone."""
        with self._turn:
            old = [kept for kept in self._kept.values() if not kept.busy and kept.left_s <= 0]
        for kept in old:
            self.remove(kept)

    @property
    def bytes(self) -> int:
        """What all of it takes on disk."""
        total = 0
        for folder, _, names in os.walk(self._folder):
            for name in names:
                try:
                    total += os.lstat(os.path.join(folder, name)).st_size
                except OSError:  # gone meanwhile
                    continue
        return total
