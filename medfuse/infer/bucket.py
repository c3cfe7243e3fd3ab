"""An output folder in a bucket: files go there whole, and what is known of them is there as well.

Beside what any output folder holds there are small objects below `.medfuse/` while a call works, one for each
change that manifest.json has not got yet: the same command, given again on any machine, takes them in.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from medfuse.api import Case
from medfuse.core.errors import OutputError
from medfuse.core.json_text import parse_json
from medfuse.core.seal import Seal
from medfuse.core.storage import Item, Storage
from medfuse.infer.away import Away
from medfuse.infer.manifest import JOURNAL, JOURNALS, NAME, Known, Manifest

_CHANGES = ".medfuse/"
_TOKEN = "changes"
"""Of the call that wrote the manifest: how the names of its changes begin."""
_AT_ONCE = 16  # small objects that are read at once
_REMEDY = "remove it, and run the same command again"


class Bucket:
    """The output at an address, and `folder`, in which its files are made. Raises DataError."""

    def __init__(self, address: str | Path, folder: Path) -> None:
        self.storage, self.folder = Storage(address), folder
        self.there: dict[str, Item] = self.storage.names()
        folder.mkdir(parents=True, exist_ok=True)
        if (text := self.storage.read(NAME)) is not None:
            self._take_in(text)

    @property
    def shown(self) -> str:
        return self.storage.shown.rstrip("/")

    @property
    def noted(self) -> list[str]:
        """The small objects of calls that have not ended."""
        return sorted(name for name in self.there if name.startswith(_CHANGES))

    def _take_in(self, manifest: bytes) -> None:
        """A manifest, and the changes that it has not got yet as its journal."""
        how: dict[str, Any] = {"raises": OutputError, "remedy": _REMEDY, "most_bytes": 2**31}
        content = parse_json(manifest, f"{self.shown}/{NAME}", **how)
        if isinstance(content, dict):
            begin = f"{_CHANGES}{content.pop(_TOKEN, '')}-"
            with ThreadPoolExecutor(_AT_ONCE) as threads:
                names = [name for name in self.noted if name.startswith(begin)]
                changes = [
                    parse_json(text, f"{self.shown}/{name}", **how)
                    for name, text in zip(names, threads.map(self.storage.read, names))
                    if text
                ]
            if changes:
                content[JOURNAL] = f"{JOURNALS}pulled.jsonl"
                lines = "".join(f"{json.dumps(change)}\n" for change in changes)
                (self.folder / content[JOURNAL]).write_text(lines, encoding="utf-8")
        (self.folder / NAME).write_text(json.dumps(content), encoding="utf-8")

    def manifest(self, facts: Mapping[str, Any]) -> BucketManifest:
        return BucketManifest(self, facts)

    def refuse_to_replace_images(self, cases: Sequence[Case], names: Iterable[str]) -> None:
        """Raises OutputError where a file of these names would replace an image."""
        images = {
            item.url for case in cases if isinstance(case, Away) for items in case.origins for item in items
        }
        where = self.storage.url_of(self.storage.root).rstrip("/")
        if clashes := [name for name in names if f"{where}/{name}" in images]:
            raise OutputError(
                *(
                    f"{self.shown}/{name}: the label map would replace an image; choose another output"
                    for name in clashes
                )
            )


class BucketManifest(Manifest):
    """A manifest whose files are objects, known by their size and by the stamp that the storage gave them."""

    def __init__(self, bucket: Bucket, facts: Mapping[str, Any]) -> None:
        self._bucket, self._storage, self._there = bucket, bucket.storage, bucket.there
        self._token, self._changes = secrets.token_hex(4), 0
        self._stamps: dict[str, str] = {}
        super().__init__(bucket.folder / NAME, facts)
        self._content[_TOKEN] = self._token
        for entry in self._cases.values():
            self._stamps |= entry.get("stamps") or {}

    def _exists(self, name: str) -> bool:
        return name in self._there

    def _kind(self, name: str) -> str:
        item = self._there.get(name)
        return "nothing" if item is None else "file" if item.bytes else "empty"

    def _holds(self, name: str, known: Known) -> bool:
        item = self._there.get(name)
        if item is None:
            return False
        size = known.bytes if isinstance(known, Seal) else known
        return item.bytes == size and self._stamps.get(name, item.stamp) == item.stamp

    def place(self, name: str, source: Path, found: Seal) -> Seal:
        item = self._storage.put(source, name)
        self._there[name], self._stamps[name] = item, item.stamp
        source.unlink(missing_ok=True)
        return found

    def arrived(self, name: str, seals: Mapping[str, Seal]) -> None:
        """What a worker has made goes on to the bucket."""
        self.know(seals)
        self._add({"known": {file: vars(found) for file, found in seals.items()}})
        for file, found in seals.items():
            self.place(file, self.path.parent / file, found)
        self._add({"cases": {}})

    def take(self, name: str, seals: Mapping[str, Seal], entry: Mapping[str, Any]) -> None:
        if not all(self._holds(file, found) for file, found in seals.items()):
            return  # a worker's, which could not be put there
        super().take(name, seals, {**entry, "stamps": {file: self._stamps.get(file, "") for file in seals}})

    def _add(self, change: Mapping[str, Any]) -> None:
        if not self._changes:
            self.write()  # from which on the changes of this call count
        self._changes += 1
        name = f"{_CHANGES}{self._token}-{self._changes:08d}.json"
        self._storage.write(name, json.dumps(change, allow_nan=False).encode())
        self._there[name] = Item(name, 1)

    def write(self) -> None:
        super().write()
        self._storage.put(self.path, NAME)
        done = self._bucket.noted
        self._storage.remove(done)
        for name in done:
            self._there.pop(name, None)

    def publish(self, names: Iterable[str]) -> None:
        for name in names:
            if (path := self.path.parent / name).is_file():
                self._there[name] = item = self._storage.put(path, name)
                self._stamps[name] = item.stamp

    def left_by_earlier_calls(self, names: Iterable[str]) -> Iterator[tuple[str, bool]]:
        """Label maps under other endings stay where they are."""
        return iter(())
