"""What it means for people that a file cannot be read."""

from __future__ import annotations

from pathlib import Path

from medfuse.core.errors import DataError
from medfuse.core.files import no_file
from medfuse.volumes.folders import lost_target, not_there
from medfuse.volumes.inflate import Damaged, NotCompressed


def check_is_file(path: Path) -> None:
    """Raises DataError where nothing can be read; pipes, which would be waited for, are not opened."""
    if kind := no_file(path):
        raise DataError(f"{path}: is {kind}, no file; name the file itself")
    if path.is_dir():
        raise broken(path, IsADirectoryError())
    if path.exists() and not path.stat().st_size:
        raise DataError(f"{path}: is empty; copy it again from its source")


def broken(path: Path, error: BaseException) -> DataError:
    """What `error` means for someone who wants to read `path`."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return DataError(not_there(path) if lost_target(path) else f"{path}: no such file; check the path")
    if isinstance(error, IsADirectoryError):
        return DataError(f"{path}: is a folder; name a file in it")
    if isinstance(error, PermissionError):
        return DataError(f"{path}: cannot be read; change its permissions")
    if isinstance(error, NotCompressed):
        return DataError(f"{path}: is not a gzip file, whatever its ending says; convert or replace it")
    if isinstance(error, Damaged):
        return DataError(f"{path}: is truncated or damaged; copy it again from its source ({error})")
    return DataError(f"{path}: is not a readable image ({last_line(error)}); convert or replace it")


def last_line(error: BaseException) -> str:
    """The last line of an error's text, which in ITK's is the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
