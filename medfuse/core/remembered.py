"""What was found out about this machine, in small JSON files of the user's cache folder."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from medfuse.core.errors import OutputError
from medfuse.core.files import write_json

log = logging.getLogger(__name__)

_MOST = 1000  # entries of a file; the oldest are forgotten


def cache_folder() -> Path:
    """MEDFUSE_CACHE where it is set, or the folder `medfuse` where this system keeps caches."""
    if chosen := os.environ.get("MEDFUSE_CACHE"):
        return Path(chosen).expanduser()
    usual = {"darwin": "~/Library/Caches", "win32": "~/AppData/Local"}.get(sys.platform, "~/.cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or usual).expanduser() / "medfuse"


def recall(name: str, key: str) -> Any:
    """What was remembered under `key` in the file `name`, or None. A damaged file is told of and ignored."""
    path = cache_folder() / name
    try:
        return _entries(path).get(key)
    except (OSError, ValueError) as error:
        log.warning("%s: cannot be read (%s) and is ignored", path, error)
        return None


def remember(name: str, key: str, value: Any) -> None:
    """Keep a JSON value for `recall`. A folder that cannot be written is told of, and no more."""
    path = cache_folder() / name
    try:
        entries = _entries(path)
    except (OSError, ValueError):
        entries = {}  # damaged, as `recall` said: begin anew
    entries.pop(key, None)
    try:
        write_json(path, dict([*entries.items(), (key, value)][-_MOST:]))
    except OutputError as error:
        log.info("what was found out is not remembered: %s", error)


def _entries(path: Path) -> dict[str, Any]:
    """Raises OSError and ValueError for what is no JSON object."""
    if not path.exists():
        return {}
    entries = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(entries, dict):
        raise ValueError("it holds no JSON object")
    return entries
