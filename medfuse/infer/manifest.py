"""manifest.json of an output folder, and what became of each case, told by any thread."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

import medfuse
from medfuse.api import Case
from medfuse.core.errors import MedfuseError, OutputError
from medfuse.core.files import remove_leftovers, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where the work stands: case `number` of `cases` (from 1), and `windows_done` of its `windows`."""

    case: str
    number: int
    cases: int
    state: Literal["predicting", "done", "skipped", "failed"] = "predicting"
    windows_done: int = 0
    windows: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of the cases, by name. `failed` holds the reasons."""

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: Mapping[str, str]
    manifest: Path


class Ledger:
    """The cases of one call, in the manifest of `output` and to `progress`. Any thread may tell it.

    `output` is a folder that this process holds (see core.lock).
    """

    def __init__(
        self,
        cases: Sequence[Case],
        facts: Mapping[str, Any],
        output: Path,
        progress: Callable[[Progress], None],
    ) -> None:
        self._manifest = _Manifest(output / "manifest.json", facts)
        remove_leftovers(output)
        self._progress = progress
        self._lock = threading.RLock()
        self._last = {case.name: Progress(case.name, n, len(cases)) for n, case in enumerate(cases, 1)}
        self._cases = cases

    def unfinished(self) -> list[Case]:
        """The cases that the manifest does not list as finished; the others are told to be skipped."""
        left = []
        for case in self._cases:
            if self._manifest.has(case):
                self._tell(case, state="skipped")
            else:
                left.append(case)
        return left

    def windows(self, case: Case, done: int = 0, of: int = 0) -> None:
        """The work on a case has begun, or come so far."""
        with self._lock:
            if self._last[case.name].state == "predicting":
                self._tell(case, windows_done=done, windows=of)

    def done(self, case: Case, entry: Mapping[str, Any]) -> None:
        """Its files are whole; `entry` is what the manifest says of it, with `windows`."""
        with self._lock:
            self._manifest.note(case, {**entry, "written": _now()})
            self._tell(case, state="done", windows_done=entry["windows"], windows=entry["windows"])

    def failed(self, case: Case, error: Exception) -> None:
        with self._lock:
            reason = _reason(case, error)
            self._manifest.note_failure(case, reason)
            self._tell(case, state="failed", reason=reason)

    def finish(self) -> Outcome:
        self._manifest.finish()
        last = self._last.values()
        return Outcome(
            done=tuple(p.case for p in last if p.state == "done"),
            skipped=tuple(p.case for p in last if p.state == "skipped"),
            failed={p.case: p.reason for p in last if p.state == "failed"},
            manifest=self._manifest.path,
        )

    def _tell(self, case: Case, **now: Any) -> None:
        self._last[case.name] = replace(self._last[case.name], **now)
        self._progress(self._last[case.name])


class _Manifest:
    """manifest.json: what was made by which weights from what. It is written anew after every case.

    Entries of another recipe are dropped: every file that it lists belongs to the weights it names.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path = path
        self._folder = path.parent
        before = _read(path)
        same = all(before.get(key) == value for key, value in facts.items())
        cases = before["cases"] if same and "cases" in before else {}
        self._content: dict[str, Any] = {
            "medfuse": medfuse.__version__,
            "started": _now(),
            "finished": None,
            **facts,
            "cases": cases,
            "failed": {},
        }

    def has(self, case: Case) -> bool:
        """Whether the case's files are there, whole, and made from its images as they are now."""
        entry = self._content["cases"].get(case.name)
        if entry is None or entry["inputs"] != files_now(case.images) or not entry["inputs"]:
            return False
        files = entry["files"] if "files" in entry else {entry["file"]: entry["bytes"]}
        return all(size_of(self._folder / name) == size for name, size in files.items())

    def note(self, case: Case, entry: Mapping[str, Any]) -> None:
        self._content["cases"][case.name] = entry
        write_json(self.path, self._content)

    def note_failure(self, case: Case, reason: str) -> None:
        self._content["cases"].pop(case.name, None)
        self._content["failed"][case.name] = reason
        write_json(self.path, self._content)

    def finish(self) -> None:
        self._content["finished"] = _now()
        write_json(self.path, self._content)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; -1 where there is neither."""
    if path.is_dir():
        return sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())
    return path.stat().st_size if path.is_file() else -1


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or "medfuse" not in content:
        raise OutputError(
            f"{path}: is not a manifest that medfuse wrote; move it away, or choose another output folder"
        )
    return content


def files_now(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Each file with its size and time, by which a changed input is noticed; empty where one is missing."""
    try:
        return [
            {"file": str(p.absolute()), "bytes": p.stat().st_size, "modified_ns": p.stat().st_mtime_ns}
            for p in paths
        ]
    except OSError:
        return []


def _reason(case: Case, error: Exception) -> str:
    if isinstance(error, MedfuseError):
        return "; ".join(error.lines)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return "needs more memory than is free; close other programs, or use a machine with more"
    log.error("case %s failed unexpectedly", case.name, exc_info=error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} (please report it)"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
