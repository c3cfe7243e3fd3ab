"""What it means for people that a file cannot be read."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from medfuse.core.errors import DataError


def broken(path: Path, error: BaseException) -> DataError:
    """What `error` means for someone who wants to read `path`."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: no such file; check the path")
    if isinstance(error, IsADirectoryError):
        return DataError(f"{path}: is a folder; name a file in it")
    if isinstance(error, PermissionError):
        return DataError(f"{path}: cannot be read; change its permissions")
    if isinstance(error, gzip.BadGzipFile) and "Not a gzipped" in str(error):
        return DataError(f"{path}: is not a gzip file, whatever its ending says; convert or replace it")
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile) or "Expected" in str(error):
        return DataError(f"{path}: is truncated or damaged; copy it again from its source")
    return DataError(f"{path}: is not a readable image ({last_line(error)}); convert or replace it")


def last_line(error: BaseException) -> str:
    """The last line of an error's text, which in ITK's is the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
