"""What was found out about this machine, in small JSON files of the user's cache folder."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from medfuse.core.errors import MedfuseError, OutputError
from medfuse.core.files import reported, write_json

log = logging.getLogger(__name__)

_MOST = 1000  # entries of a file; the oldest are forgotten


def cache_folder() -> Path:
    """MEDFUSE_CACHE where it is set, or the folder `medfuse` where this system keeps caches.

    Raises OutputError where there is no home folder either.
    """
    chosen = os.environ.get("MEDFUSE_CACHE")
    usual = {"darwin": "~/Library/Caches", "win32": "~/AppData/Local"}.get(sys.platform, "~/.cache")
    try:
        if chosen:
            return Path(chosen).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or usual).expanduser() / "medfuse"
    except RuntimeError as error:  # a user without a home folder
        raise OutputError(f"there is no folder for caches ({error}); set MEDFUSE_CACHE to one") from None


def make_private(folder: Path) -> None:
    """Make a folder for caches that only its user reads. Raises OutputError."""
    try:
        with reported(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OutputError as error:
        raise OutputError(f"{error.lines[0]}; MEDFUSE_CACHE names a folder for caches") from error


def recall(name: str, key: str) -> Any:
    """What was remembered under `key` in the file `name`, or None. A damaged file is told of and ignored."""
    try:
        return _entries(cache_folder() / name).get(key)
    except (MedfuseError, OSError) as error:
        _tell_once(f"what was found out before is not known: {error}")
        return None


def remember(name: str, key: str, value: Any) -> None:
    """Keep a JSON value for `recall`. A folder that cannot be written is told of, and no more."""
    try:
        path = cache_folder() / name
        try:
            entries = _entries(path)
        except (MedfuseError, OSError):
            entries = {}  # damaged, as `recall` said: begin anew
        entries.pop(key, None)
        write_json(path, dict([*entries.items(), (key, value)][-_MOST:]))
    except (MedfuseError, OSError) as error:
        _tell_once(f"what was found out is not remembered: {error}")


def _entries(path: Path) -> dict[str, Any]:
    """Raises MedfuseError for what is no JSON object."""
    from medfuse.core.json_text import read_json  # which takes half a second to import

    remedy = "it is ignored, and written anew"
    if not os.path.lexists(path):
        return {}
    entries = read_json(path, raises=OutputError, remedy=remedy)
    if not isinstance(entries, dict):
        raise OutputError(f"{path}: holds no JSON object; {remedy}")
    return entries


def _tell_once(line: str) -> None:
    """One line a process: a cache is no reason for more."""
    if not _told:
        _told.append(line)
        log.warning("%s", line)


_told: list[str] = []
