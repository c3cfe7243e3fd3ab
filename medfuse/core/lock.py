"""A folder that one process at a time works in; another one is told who does."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.core.errors import OutputError
from medfuse.core.files import reported

if TYPE_CHECKING:
    from filelock import BaseFileLock

NAME = ".lock"
FILE_NAME = ".lock-file"
"""Its mere presence is the lock, on a disk that has no locks."""
_SETTLING = 0.5  # seconds in which a lock that is just being given back is free
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)  # what a disk without them answers


class InUse(OutputError):
    """Another process holds the folder."""


@contextmanager
def locked(folder: Path, *, instead: str = "choose another folder", wait_s: float = 0.0) -> Iterator[None]:
    """Hold `folder`, which must be there, until the block ends or the process does, however it ends.

    Raises InUse where another holds it for longer than `wait_s`, be it another thread of this process:
    the line names the holder and what to do `instead` of waiting. The lock is the system's, which ends with
    its process. A disk that has none is locked by a file that names process and host: one that was left by a
    dead process of this host is taken over; of another host's nobody here can tell, and the line says so.
    """
    path = folder / NAME
    lock, by_file = _lock(path), False
    with reported(path):
        try:
            held = _acquire(lock, wait_s)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            path.unlink(missing_ok=True)
            path, by_file = folder / FILE_NAME, True
            lock = _file_lock(path)
            held = _acquire(lock, wait_s)
    if not held:
        advice = f"wait until it has ended, or {instead}"
        if by_file:
            advice += f"; this disk has no locks: if that process is gone, remove {path}"
        raise InUse(f"{folder}: is in use by {_holder(path)}; {advice}")
    try:
        yield
    finally:
        with suppress(OSError):  # a folder may be gone
            if not by_file:
                path.unlink(missing_ok=True)  # while it is held: who waits for it makes a new one
            lock.release()


def _lock(path: Path) -> "BaseFileLock":
    from filelock import FileLock

    made: BaseFileLock = FileLock(path, thread_local=False, fallback_to_soft=False, on_acquired=_sign)
    return made


def _file_lock(path: Path) -> "BaseFileLock":
    from filelock import SoftFileLock

    return SoftFileLock(path, thread_local=False)


def _acquire(lock: "BaseFileLock", wait_s: float) -> bool:
    from filelock import Timeout

    try:
        lock.acquire(timeout=max(wait_s, _SETTLING))
    except Timeout:
        return False
    return True


def _sign(handle: int) -> None:
    """Say who holds the lock, in the words of a SoftFileLock: process, host."""
    with suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n{socket.gethostname()}\n".encode())


def _holder(path: Path) -> str:
    """Process, host and time of who holds a lock, as far as its file tells."""
    try:
        process, host = path.read_text(encoding="utf-8").splitlines()[:2]
        since = f"{datetime.fromtimestamp(path.stat().st_mtime):%Y-%m-%d %H:%M}"
    except (OSError, ValueError):
        return "another process"
    here = " (this one)" if (process, host) == (str(os.getpid()), socket.gethostname()) else ""
    return f"process {process}{here} on {host} since {since}"
