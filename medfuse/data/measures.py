"""What was measured of large cases, kept by their content, so that a look at a dataset goes on once ended.

A file a case in the cache folder. Its name is a digest of all that the measures depend on; one that is
damaged is not there. Small cases are measured in less time than it takes to look them up.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import MedfuseError
from medfuse.core.files import atomic
from medfuse.core.remembered import cache_folder, make_private

WORTH_VOXELS = 2**22
"""Of a case from which on it is kept."""
_FOLDER, _SAID = "measured", "said"
_MOST_FILES = 10_000
"""The oldest go first."""

Kept = tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]
"""Plain JSON values, and arrays by name."""


def key_of(*parts: Any) -> str:
    """A digest of plain values."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def recalled(key: str) -> Kept | None:
    """What was kept under `key`; None where nothing was, or it is damaged."""
    try:
        with np.load(io.BytesIO(_path(key).read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        said = json.loads(arrays.pop(_SAID).tobytes())
    except (MedfuseError, OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        return None
    return (said, arrays) if isinstance(said, dict) else None


def keep(key: str, said: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """For `recalled`. Where there is no room for it, nothing is kept."""
    text = np.frombuffer(json.dumps(dict(said)).encode(), np.uint8)
    content: dict[str, Any] = {_SAID: text, **arrays}
    with suppress(MedfuseError, OSError):
        path = _path(key)
        make_private(path.parent)
        with atomic(path, lasting=False) as temporary, temporary.open("wb") as file:
            np.savez(file, **content)
        for old in sorted(path.parent.glob("*.npz"), key=_age)[:-_MOST_FILES]:
            old.unlink(missing_ok=True)


def _path(key: str) -> Path:
    return cache_folder() / _FOLDER / f"{key}.npz"


def _age(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0
