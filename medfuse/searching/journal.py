"""A search on disk: each fact a small file that is written once, so that no kill loses or doubles a trial.

search.json            what is searched, on which data: another pipeline or other data are refused
asked/0007.json        trial 7: its values, and how many combinations were refused before it
told/0007.1.json       what it reached at rung 1
failed/0007.json       why it could not be trained
exhausted.json         that no combination was left, after so many trials
sessions/ID.json       when a worker began, and when it was last alive: the minutes that are spent
trials/0007/           its run folder, from which its training carries on
final/…/               the trainings at the end
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medfuse.core.errors import DataError, OutputError
from medfuse.core.files import make_folder, write_json
from medfuse.core.json_text import read_json
from medfuse.core.lock import locked
from medfuse.core.repeated import repeated

_BEAT_S = 1.0
_RENAME = "give the search another name (--set name=…), or begin it anew with --retrain"


@dataclass(frozen=True)
class Asked:
    """Trial `number`. `values` are as the space has them; `refused`: combinations that were none, and why."""

    number: int
    values: Mapping[str, Any]
    refused: Mapping[str, str]


@dataclass(frozen=True)
class Told:
    """What a trial reached at a rung: Dice by label and in all, and what it costs.

    `ripe`: the Dice at the probabilities at which it is highest. `seconds`: that this rung took, judging
    included; `steps` and `trained`: steps and seconds of training in all; `at`: seconds of the search that
    were spent by then.
    """

    number: int
    rung: int
    dice: float
    ripe: float
    labels: Mapping[str, float]
    seconds_per_case: float
    memory: int
    parameters: int
    steps: int
    seconds: float
    cases: Mapping[str, float]
    trained: float = 0.0
    at: float = 0.0


class Journal:
    """The folder of one search."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> None:
        for name in ("asked", "told", "failed", "sessions", "trials", "final"):
            make_folder(self.folder / name)

    def turn(self) -> AbstractContextManager[None]:
        """One worker at a time decides what is done next."""
        return locked(self.folder / "asked", wait_s=600)

    # ---- what is searched

    def claim(self, about: Mapping[str, Any]) -> None:
        """Raises DataError where the folder holds a search of something else, a line for each difference."""
        path = self.folder / "search.json"
        if not path.exists():
            write_json(path, about)
            return
        before = read_json(path, raises=OutputError, remedy=f"remove it, or {_RENAME}")
        now = json.loads(json.dumps(about))
        if changed := [*_differences(before, now)]:
            lines = [f"{self.folder}: {line}" for line in changed[:6]]
            if len(changed) > 6:
                lines.append(f"{self.folder}: and {len(changed) - 6} more")
            raise DataError(
                *lines, f"{self.folder}: its trials were made from something else; {_RENAME}, or put it back"
            )

    # ---- trials

    def asked(self) -> list[Asked]:
        found = [Asked(**self._read(path)) for path in sorted((self.folder / "asked").glob("*.json"))]
        return sorted(found, key=lambda one: one.number)

    def ask(self, asked: Asked) -> None:
        write_json(self.folder / "asked" / f"{asked.number:04d}.json", asdict(asked))

    def told(self) -> list[Told]:
        found = [Told(**self._read(path)) for path in (self.folder / "told").glob("*.json")]
        return sorted(found, key=lambda one: (one.number, one.rung))

    def tell(self, told: Told) -> None:
        record = {**asdict(told), "at": round(self.spent(), 1)}
        write_json(self.folder / "told" / f"{told.number:04d}.{told.rung}.json", record)

    def is_over(self, number: int, rung: int) -> bool:
        """Whether a trial has told what it reached at a rung, or cannot be trained."""
        told, failed = self.folder / "told" / f"{number:04d}.{rung}.json", f"failed/{number:04d}.json"
        return told.exists() or (self.folder / failed).exists()

    def failed(self) -> dict[int, str]:
        found = [self._read(path) for path in sorted((self.folder / "failed").glob("*.json"))]
        return {one["number"]: one["reason"] for one in found}

    def fail(self, number: int, reason: str) -> None:
        write_json(self.folder / "failed" / f"{number:04d}.json", {"number": number, "reason": reason})

    def exhaust(self, trials: int) -> None:
        write_json(self.folder / "exhausted.json", {"trials": trials})

    @property
    def is_exhausted(self) -> bool:
        return (self.folder / "exhausted.json").exists()

    def run_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"

    def _read(self, path: Path) -> dict[str, Any]:
        remedy = f"remove {path}, and run the same command again"
        found = read_json(path, raises=OutputError, remedy=remedy)
        if not isinstance(found, dict):
            raise OutputError(f"{path}: is no record of a search; {remedy}")
        return found

    # ---- minutes

    @contextmanager
    def session(self) -> Iterator[None]:
        """The time that passes until the block ends, or the process does, is spent."""
        path = self.folder / "sessions" / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}.json"
        began = time.time()

        def beat() -> None:
            with suppress(OSError, OutputError):
                write_json(path, {"began": began, "seen": time.time()})

        beat()
        try:
            with repeated(beat, _BEAT_S, "minutes of a search"):
                yield
        finally:
            beat()

    def spent(self) -> float:
        """Seconds in which somebody worked, those of several at once counted once."""
        stretches = []
        for path in (self.folder / "sessions").glob("*.json"):
            with suppress(OSError, OutputError, ValueError, KeyError, TypeError):
                one = self._read(path)
                stretches.append((float(one["began"]), float(one["seen"])))
        total, end = 0.0, float("-inf")
        for began, seen in sorted(stretches):
            total += max(0.0, seen - max(began, end))
            end = max(end, seen)
        return total


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif before != now:
        yield f"{path} was {_short(before)}, is {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
