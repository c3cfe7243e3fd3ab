"""`medfuse cache`: what runs share on disk, prepared cases and kept maps, shown or removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from medfuse.core.files import claimed, reported
from medfuse.core.memory import bytes_text
from medfuse.core.result import Result
from medfuse.core.text import aligned, listed
from medfuse.runs.frozen_set import FOLDER

Kind = Literal["maps", "prepared"]

_KEY = "[0-9a-f]" * 16
_FILES = {
    "prepared": tuple(f"*-{_KEY}.{ending}" for ending in ("image.b2nd", "label.b2nd", "json")),
    "maps": ("about.json", "*/about.json", "*/*.b2", "*/.part-*", ".part-*"),
}
"""What medfuse writes into such a folder; anything else stays."""


@dataclass(frozen=True)
class Shared:
    """A folder of prepared cases of one dataset, or of maps of one set of patches."""

    kind: Kind
    path: Path

    def files(self) -> list[Path]:
        return [file for form in _FILES[self.kind] for file in self.path.glob(form) if file.is_file()]

    def holds(self) -> str:
        """What is in it, in a few words."""
        if self.kind == "prepared":
            return f"{len([*self.path.glob('*.image.b2nd')])} prepared cases"
        try:
            about = json.loads((self.path / "about.json").read_bytes())
            names = [json.loads(file.read_bytes())["map"] for file in sorted(self.path.glob("*/about.json"))]
            what = f"{about['patches']} patches × {about['views']} views of {about['dataset']}"
            return f"{what}: {listed(sorted({*names}), 4)}"
        except (OSError, ValueError, KeyError, TypeError):
            return "maps of unknown origin"

    def is_in_use(self) -> bool:
        with claimed(self.path) as free:
            return not free

    def clear(self) -> bool:
        """Remove what medfuse wrote, and the folder where nothing is left; whether nobody uses it."""
        with reported(self.path), claimed(self.path) as free:
            if not free:
                return False
            for file in self.files():
                file.unlink(missing_ok=True)
            for folder in (*(p for p in self.path.glob("*") if p.is_dir()), self.path):
                with suppress(OSError):  # somebody else's files are in it
                    folder.rmdir()
        return True


def shared_table(runs: Path, maps: Path | None = None) -> Result:
    """A row for each folder that runs share, and what all of them take."""
    rows, folders, total = [["folder", "size", "last used", "holds"]], [], 0
    for shared in _shared(runs, maps):
        files = shared.files()
        size = sum(file.stat().st_size for file in files)
        last = max((file.stat().st_mtime for file in files), default=shared.path.stat().st_mtime)
        busy, holds = shared.is_in_use(), shared.holds()
        used = "in use" if busy else f"{datetime.fromtimestamp(last):%Y-%m-%d}"
        rows.append([str(shared.path), bytes_text(size), used, holds])
        when = datetime.fromtimestamp(last).isoformat(timespec="seconds")
        about = {"kind": shared.kind, "bytes": size, "last_used": when, "in_use": busy, "holds": holds}
        folders.append({"folder": shared.path, **about})
        total += size
    text = f"{aligned(rows)}\n{bytes_text(total)} in all; `medfuse cache --clear maps` removes kept maps"
    nothing = f"{runs}: runs share nothing there"
    return Result(text if folders else nothing, {"folders": folders, "bytes": total})


def clear_shared(runs: Path, maps: Path | None, what: Literal["maps", "prepared", "all"]) -> Result:
    """Remove it, but for what is in use; what became of it."""
    freed, kept = 0, []
    for shared in _shared(runs, maps):
        if what in ("all", shared.kind):
            size = sum(file.stat().st_size for file in shared.files())
            if shared.clear():
                freed += size
            else:
                kept.append(shared.path)
    lines = [f"{path}: is in use, and stays" for path in kept]
    return Result("\n".join([*lines, f"{bytes_text(freed)} freed"]), {"freed_bytes": freed, "kept": kept})


def _shared(runs: Path, maps: Path | None) -> Iterator[Shared]:
    places: list[tuple[Kind, Path]] = [("prepared", runs / "prepared"), ("maps", runs / FOLDER)]
    if maps:
        places.append(("maps", maps))
    for kind, place in places:
        for path in sorted(place.glob("*")):
            if path.is_dir() and (kind == "prepared" or (path / "about.json").is_file()):
                yield Shared(kind, path)
