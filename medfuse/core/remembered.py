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
    return _read(cache_folder() / name).get(key)


def remember(name: str, key: str, value: Any) -> None:
    """Keep a JSON value for `recall`. A folder that cannot be written is told of, and no more."""
    path = cache_folder() / name
    entries = {k: v for k, v in _read(path).items() if k != key}
    try:
        write_json(path, dict([*entries.items(), (key, value)][-_MOST:]))
    except OutputError as error:
        log.info("what was found out is not remembered: %s", error)


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s: cannot be read (%s) and is ignored", path, error)
        return {}
    if not isinstance(entries, dict):
        log.warning("%s: holds no JSON object and is ignored", path)
        return {}
    return entries
