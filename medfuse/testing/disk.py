"""A folder as a disk may show it, and what is done to it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch


@contextlib.contextmanager
def listed(backwards: bool) -> Iterator[None]:
    """Folders are listed by name, forwards or backwards."""
    listdir, scandir = os.listdir, os.scandir

    class Listing:
        def __init__(self, path: Any = ".") -> None:
            with scandir(path) as entries:
                self.entries = iter(
                    sorted(entries, key=lambda entry: os.fspath(entry.name), reverse=backwards)
                )

        def __iter__(self) -> Any:
            return self.entries

        def __next__(self) -> Any:
            return next(self.entries)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None:
            self.close()

        def close(self) -> None:
            self.entries = iter(())

    def names(path: Any = ".") -> list[Any]:
        return sorted(listdir(path), reverse=backwards)

    with patch("os.scandir", Listing), patch("os.listdir", names):
        yield


def contents(root: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with its size and the time of its last change."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            facts = os.stat(os.path.join(folder, name), follow_symlinks=False)
            found[os.path.join(folder, name)] = facts.st_size, facts.st_mtime_ns
    return found


_hearing: list[list[str]] = []
_hooked = False


@contextlib.contextmanager
def opened() -> Iterator[list[str]]:
    """The paths of the files that are opened. Python's audit hooks cannot be removed: one serves all."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_hear)
        _hooked = True
    heard: list[str] = []
    _hearing.append(heard)
    try:
        yield heard
    finally:
        _hearing.remove(heard)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _hearing and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        for heard in _hearing:
            heard.append(os.fsdecode(arguments[0]))
