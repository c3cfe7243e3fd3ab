"""By what a file or a folder is known again as it was written: its hash, and what saves reading it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medfuse.core.errors import OutputError
from medfuse.core.files import file_hash, write_json


@dataclass(frozen=True)
class Seal:
    """Bytes and SHA-256 of what was written, and when it last changed.

    `changed_ns` is when the file system last noted any change, which no program sets back (on Windows: when
    the file was made). While it, the time of modification and the size are as they were, nothing was touched.
    """

    bytes: int
    modified_ns: int
    changed_ns: int
    sha256: str

    def holds(self, path: Path) -> bool:
        """Whether what is there now is what was sealed, to the last byte; read where its times differ."""
        try:
            now = _stamp(path)
            if now[0] != self.bytes:
                return False
            return now == (self.bytes, self.modified_ns, self.changed_ns) or content_hash(path) == self.sha256
        except OSError:
            return False

    def at(self, path: Path) -> Seal:
        """The same content at another place, to which it was moved."""
        size, modified, changed = _stamp(path)
        untouched = (size, modified) == (self.bytes, self.modified_ns)  # moving sets `changed_ns` alone
        return replace(self, changed_ns=changed) if untouched else self


def seal(path: Path) -> Seal:
    """The seal of what is there now."""
    stamp = _stamp(path)  # before it is read: what changes meanwhile is seen as changed
    return Seal(*stamp, content_hash(path))


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes; of a folder's, the names of its files included."""
    if not path.is_dir():
        return file_hash(path)
    digest = hashlib.sha256()
    for file in sorted(inner for inner in path.rglob("*") if inner.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{file_hash(file)}\n".encode())
    return digest.hexdigest()


_OWN = "sha256"  # the last key of a JSON file that knows itself


def write_own_json(path: Path, value: Mapping[str, Any]) -> None:
    """As `write_json`, with the hash of the rest, so that `refuse_others` knows the file again."""
    write_json(path, {**value, _OWN: _json_hash(value)})


def refuse_others(path: Path, *, overwrite: bool = False) -> None:
    """Raises OutputError where there is something that `write_own_json` did not write, or not so.

    With `overwrite` where there is anything but a file, or a link to one.
    """
    if not os.path.lexists(path) or (overwrite and path.is_file()) or _is_own_json(path):
        return
    instead = "choose another --output, or give --overwrite" if path.is_file() else "choose another --output"
    raise OutputError(f"{path}: is not what medfuse wrote, or was changed since, and stays; {instead}")


def _is_own_json(path: Path) -> bool:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        content = json.loads(path.read_bytes())
        return isinstance(content, dict) and content.pop(_OWN, None) == _json_hash(content)
    except (OSError, ValueError, RecursionError):
        return False


def _json_hash(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, int, int]:
    """Bytes, and the last times of modification and of change, of a file or of all that a folder holds."""
    found = [(entry, os.stat(entry)) for entry in _all(path)]
    size = sum(about.st_size for entry, about in found if not entry.is_dir())
    return size, max(about.st_mtime_ns for _, about in found), max(about.st_ctime_ns for _, about in found)


def _all(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir():
        yield from path.rglob("*")
