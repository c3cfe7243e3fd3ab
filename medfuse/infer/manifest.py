"""manifest.json of an output folder: what medfuse made there, by which weights and engines, from what."""

from __future__ import annotations

import json
import os
import secrets
import socket
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

import medfuse
from medfuse.api import Case
from medfuse.core.engine import Engine
from medfuse.core.errors import DataError, MedfuseError, OutputError
from medfuse.core.files import reported, write_text
from medfuse.core.json_text import parse_json, read_json, read_text, validated
from medfuse.core.memory import peak_memory
from medfuse.core.seal import Seal
from medfuse.infer.away import inputs_now
from medfuse.infer.feature_files import is_ours
from medfuse.volumes.dicom.origins import volume_hash

NAME = "manifest.json"
HASH = "sha256"
"""Of an input, which is told and not compared: its size and time say whether it has changed."""
JOURNAL, JOURNALS = "journal", ".manifest-"
_REMEDY = "move it away, or choose another output folder"
_MOST_BYTES = 2**31  # of a folder with hundreds of thousands of cases
_LARGE = 2**20
"""Bytes of a manifest from which on what is new goes into a journal beside it, until that has grown by a part
of the manifest: written anew after each of 100,000 cases it would be some terabytes."""
_PART = 4

Known = Seal | int
"""By what a file that medfuse wrote is known again. Older versions kept its size, which is not enough."""


class InTheWay(MedfuseError):
    """What stands where a file is to be written was made or changed by somebody else, and stays."""


class Manifest:
    """What was made by which weights from what. A case is in the file, or in its journal, once it is done.

    `cases` holds entries of one recipe alone: every file that it lists belongs to the weights it names.
    `earlier` is by what files of other recipes are known as medfuse's own, and those that were about to be
    put in their places.
    Raises OutputError where there is a manifest that is not medfuse's, or is damaged.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path = path
        self._folder = path.parent
        before, content = read_manifest(path)
        same = all(content.get(key) == value for key, value in facts.items())
        self._cases: dict[str, Any] = dict(content.get("cases", {})) if same else {}
        self._entries = before.cases if same else {}
        self._listed: dict[str, Known] = {}
        for entry in self._entries.values():
            self._listed |= entry.known()
        self._known = {name: k for name, k in before.files().items() if self._exists(name)}
        self.facts = facts
        self.given: Mapping[str, Mapping[str, Any]] = {}
        self._content = {"medfuse": medfuse.__version__, "started": now(), "finished": None, **facts}
        self._spelled: dict[str, str] = {}
        self._size, self._journal, self._journalled = 0, "", 0
        self._old_journals = [*self._folder.glob(f"{JOURNALS}*")]
        self._failed: dict[str, str] = {}
        self._left: dict[str, str] = {}
        self._parts = content.get("parts") if same else None
        self._reasons = [dict(content.get(kind, {})) if same else {} for kind in ("failed", "left")]

    @property
    def engines(self) -> Sequence[Engine]:
        """What ran the networks for the first of the cases that are listed; none where that is not told."""
        return next((entry.engines for entry in self._entries.values() if entry.engines), [])

    def keep_reasons(self, but: Collection[str]) -> None:
        """What earlier calls said of other cases that failed, or were left, is still told, and of parts."""
        if self._parts is not None:
            self._content["parts"] = self._parts
        self._failed, self._left = (
            {name: reason for name, reason in told.items() if name not in but} for told in self._reasons
        )

    def tells_of(self, names: Iterable[str]) -> bool:
        """Whether it says of all of them what became of them."""
        return {*names} <= {*self._cases, *self._failed, *self._left}

    def note_part(self, index: int, count: int) -> None:
        """All cases of part `index` of `count` are told of, once that is written."""
        self._content["parts"] = {
            "count": count,
            "ended": sorted({index, *ended_parts(self._content, count)}),
        }

    def has(self, case: Case, names: Sequence[str]) -> bool:
        """Whether the case's files are there, untouched, and made from its images as they are now."""
        entry = self._entries.get(case.name)
        if entry is None or not entry.inputs or _without_hash(entry.inputs) != inputs_now(case):
            return False
        files = entry.known()
        return all(name in files and self._holds(name, files[name]) for name in names)

    def unlike(self, case: Case) -> Sequence[str]:
        """In how far the image of a finished case is unlike those of training."""
        return self._entries[case.name].unlike_training

    def refuse_to_replace(self, names: Sequence[str], *, overwrite: bool) -> None:
        """Raises InTheWay where a file of these names would replace what medfuse did not write, or not so.

        With `overwrite` what is of the same kind may be replaced.
        """
        reasons = (self._reason_to_stay(name, overwrite) for name in names)
        if found := [reason for reason in reasons if reason]:
            raise InTheWay("; ".join(found))

    def _reason_to_stay(self, name: str, overwrite: bool) -> str:
        path, known = self._folder / name, self._known.get(name, ())
        kind, wanted = self._kind(name), "folder" if name.endswith(".zarr") else "file"
        if kind in ("nothing", "empty"):  # nobody's work
            return ""
        if kind not in (wanted, "link"):
            return f"{path}: is a {kind} where a {wanted} is to be written, and stays"
        if any(isinstance(one, Seal) and self._holds(name, one) for one in known):
            return ""
        if overwrite and (kind != "folder" or is_ours(path)):
            return ""
        if not known:
            why = "is not what medfuse wrote"
        elif any(isinstance(one, Seal) for one in known):
            why = "was changed since medfuse wrote it"
        else:
            why = "was written by an older medfuse, which noted no hash to know it by"
        return f"{path}: {why}, and stays"

    def _exists(self, name: str) -> bool:
        return os.path.lexists(self._folder / name)

    def _kind(self, name: str) -> str:
        return _kind(self._folder / name)

    def _holds(self, name: str, known: Known) -> bool:
        """Whether a file is as it was written, as far as can be known."""
        path = self._folder / name
        return known.holds(path) if isinstance(known, Seal) else size_of(path) == known

    def place(self, name: str, source: Path, found: Seal) -> Seal:
        """Put a file or folder in its place; a folder that stands there goes beside `source` first."""
        target = self._folder / name
        with reported(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir() and target.is_dir():
                target.rename(source.parent / secrets.token_hex(4))
            source.replace(target)
        return found.at(target)

    def arrived(self, name: str, seals: Mapping[str, Seal]) -> None:
        """Files of a case are there that another process has put in their places."""

    def publish(self, names: Iterable[str]) -> None:
        """Files beside the manifest are whole."""

    def left_by_earlier_calls(self, names: Iterable[str]) -> Iterator[tuple[str, bool]]:
        """Which of these names are there by an earlier call of medfuse's, and whether nobody touched them."""
        for name in names:
            path = self._folder / name
            if name not in self._listed and (known := self._known.get(name)) and os.path.lexists(path):
                yield name, any(isinstance(one, Seal) and one.holds(path) for one in known)

    @property
    def entries(self) -> Mapping[str, Mapping[str, Any]]:
        """What is said of each case that is done."""
        return self._cases

    def know_table(self, name: str, found: Seal) -> None:
        """A file about all cases is about to be put in its place; one that was there goes."""
        self.replace(name, found)
        self.write()

    def forget(self, name: str) -> None:
        """A file that an earlier call wrote is no longer there."""
        self._known.pop(name, None)

    def announce(self, case: Case, seals: Mapping[str, Seal]) -> None:
        """What will be put in its place now: a process that is killed before `note` has still told of it."""
        self.know(seals)
        self._add({"known": {name: asdict(found) for name, found in seals.items()}})

    def know(self, seals: Mapping[str, Seal]) -> None:
        """Files that medfuse has written, or was about to, whatever became of them."""
        self._known |= {name: (*self._known.get(name, ()), found) for name, found in seals.items()}

    def note(self, case: Case, seals: Mapping[str, Seal], entry: Mapping[str, Any]) -> None:
        """The case's files are whole, and in their places; `entry` is what else there is to say of it."""
        self.take(case.name, seals, {**entry, **made_by()})
        self._add({"cases": {case.name: self._cases[case.name]}})

    def take(self, name: str, seals: Mapping[str, Seal], entry: Mapping[str, Any]) -> None:
        """The same, to be written with the next."""
        self._forget(name)
        self._failed.pop(name, None)
        self._known |= {name: (found,) for name, found in seals.items()}
        self._listed |= seals
        files = {name: asdict(found) for name, found in seals.items()}
        more = {"given": dict(self.given[name])} if self.given.get(name) else {}
        self._cases[name] = {"file": next(iter(files)), "files": files, **entry, **more}
        self._entries[name] = Entry.model_validate(self._cases[name])

    def note_failure(self, case: Case, reason: str) -> None:
        self.take_failure(case.name, reason)
        self._add({"failed": {case.name: reason}})

    def take_failure(self, name: str, reason: str) -> None:
        """The same, to be written with the next."""
        self._forget(name)
        self._failed[name] = reason

    def note_left(self, case: Case, reason: str) -> None:
        """Written with the next case, or at the end."""
        self._left[case.name] = reason

    def replace(self, name: str, found: Seal) -> None:
        """A file of medfuse's that is of no case will be another, once that is written."""
        former = [one for one in self._known.get(name, ()) if self._holds(name, one)]
        self._known[name] = (*former, found)

    def end(self) -> None:
        """All is done, once that is written."""
        self._content.pop("parts", None)
        self._content["finished"] = now()

    def finish(self) -> None:
        self.end()
        self.write()

    def _add(self, change: Mapping[str, Any]) -> None:
        """What is new is on the disk: in the manifest, or in its journal where that is large."""
        if not self._journal or self._journalled > self._size // _PART:
            self.write()
            return
        line = f"{json.dumps(change, allow_nan=False)}\n".encode()
        path = self._folder / self._journal
        with reported(path), open(path, "ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._journalled += len(line)

    def write(self) -> None:
        """All of it, in one file."""
        if self._journal:
            self._old_journals.append(self._folder / self._journal)
        self._journal, self._journalled = "", 0
        if self._size > _LARGE and not self._content["finished"]:
            self._journal = f"{JOURNALS}{secrets.token_hex(4)}.jsonl"
        others = {
            name: [known for known in found if known != self._listed.get(name)]
            for name, found in self._known.items()
        }
        earlier = {
            name: [asdict(known) if isinstance(known, Seal) else known for known in found]
            for name, found in others.items()
            if found
        }
        more = {"failed": self._failed, "left": self._left, "earlier": earlier}
        text = self._text({**more, **({JOURNAL: self._journal} if self._journal else {})})
        write_text(self.path, text)
        self._size = len(text)
        while self._old_journals:  # nobody reads them any more
            with suppress(OSError):
                self._old_journals.pop().unlink(missing_ok=True)

    def _text(self, more: Mapping[str, Any]) -> str:
        """As JSON. Each case is spelled once, as a folder may hold thousands and this is written for each."""
        for name in self._cases.keys() - self._spelled.keys():
            self._spelled[name] = f"\n    {json.dumps(name)}: {_json(self._cases[name], indented=4)}"
        cases = ",".join(self._spelled[name] for name in self._cases)
        head, tail = _json({**self._content, "cases": {}}), _json(more)
        if cases:
            head = f"{head.removesuffix('{}' + chr(10) + '}')}{{{cases}\n  }}\n}}"
        return f"{head.removesuffix(chr(10) + '}')},{tail.removeprefix('{')}\n"

    @property
    def content(self) -> dict[str, Any]:
        """What it says, but of the files of earlier calls."""
        return {**self._content, "cases": self._cases, "failed": self._failed, "left": self._left}

    def _forget(self, case: str) -> None:
        """Its entry; its files are still known."""
        self._spelled.pop(case, None)
        for name in (self._cases.pop(case, None) or {}).get("files", ()):
            self._listed.pop(name, None)
        self._entries.pop(case, None)


def ended_parts(content: Mapping[str, Any], count: int) -> list[int]:
    """Which of `count` parts a manifest says to have ended."""
    parts = content.get("parts")
    ended = parts.get("ended") if isinstance(parts, dict) and parts.get("count") == count else []
    return [index for index in ended if isinstance(index, int)] if isinstance(ended, list) else []


def _json(value: Any, indented: int = 0) -> str:
    return json.dumps(value, indent=2, allow_nan=False).replace("\n", "\n" + " " * indented)


def engines_of(folder: Path, facts: Mapping[str, Any]) -> Sequence[Engine]:
    """What ran the networks for the first cases that a folder has of this recipe. Raises OutputError."""
    return Manifest(folder / NAME, facts).engines


class Entry(BaseModel):
    """What a manifest says of a case, as far as it is read again."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    inputs: list[dict[str, Any]] = []
    file: str = ""
    bytes: int = 0
    files: dict[str, Known] = {}
    engines: list[dict[str, Any]] = []
    unlike_training: list[str] = []

    def known(self) -> Mapping[str, Known]:
        """Its files. Older versions had none beside the label map."""
        return self.files or ({self.file: self.bytes} if self.file else {})


class Before(BaseModel):
    """What a manifest of an earlier call says."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    medfuse: str = ""
    cases: dict[str, Entry] = {}
    earlier: dict[str, tuple[Known, ...]] = {}

    def files(self) -> dict[str, tuple[Known, ...]]:
        """All that medfuse wrote into the folder, or was about to."""
        found = dict(self.earlier)
        for entry in self.cases.values():
            found |= {name: (*found.get(name, ()), known) for name, known in entry.known().items()}
        return found


def read_manifest(path: Path) -> tuple[Before, dict[str, Any]]:
    """What is read of a manifest, and all of it; nothing where there is none. Raises OutputError."""
    if not os.path.lexists(path):
        return Before(), {}
    content = read_json(path, raises=OutputError, remedy=_REMEDY, most_bytes=_MOST_BYTES)
    if not isinstance(content, dict) or "medfuse" not in content:
        raise OutputError(f"{path}: is not a manifest that medfuse wrote; {_REMEDY}")
    if journal := content.pop(JOURNAL, ""):
        _carry_on(content, path.with_name(Path(str(journal)).name))
    return validated(Before, content, str(path), raises=OutputError, remedy=_REMEDY), content


def _carry_on(content: dict[str, Any], journal: Path) -> None:
    """What was noted since the manifest was written. A last line that is cut off was not noted."""
    if not journal.exists():
        return
    text = read_text(journal, raises=OutputError, remedy=_REMEDY, most_bytes=_MOST_BYTES)
    kinds = {key: content.setdefault(key, {}) for key in ("cases", "failed", "earlier")}
    if not all(isinstance(kind, dict) for kind in kinds.values()):
        return  # which is told when it is validated
    for number, line in enumerate(text.split("\n")[:-1], 1):
        change = parse_json(line, f"{journal}:{number}", raises=OutputError, remedy=_REMEDY)
        if not isinstance(change, dict) or not all(isinstance(said, dict) for said in change.values()):
            raise OutputError(f"{journal}:{number}: is not what medfuse wrote; {_REMEDY}")
        for name, found in change.get("known", {}).items():
            kinds["earlier"].setdefault(name, []).append(found)
        for name, entry in change.get("cases", {}).items():
            kinds["failed"].pop(name, None)
            kinds["cases"][name] = entry
        for name, why in change.get("failed", {}).items():
            kinds["cases"].pop(name, None)
            kinds["failed"][name] = why


def _kind(path: Path) -> str:
    """`nothing`, `file`, `empty`, `folder`, `link` (one that leads nowhere) or `device` (a pipe, too)."""
    if not os.path.lexists(path):
        return "nothing"
    try:
        about = path.stat()
    except OSError:
        return "link"
    mode = about.st_mode
    if stat.S_ISREG(mode) and not about.st_size:
        return "empty"
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "device"


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; -1 where there is neither."""
    if path.is_dir():
        return sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())
    return path.stat().st_size if path.is_file() else -1


def with_hashes(inputs: Sequence[Mapping[str, Any]], paths: Sequence[Path]) -> list[dict[str, Any]]:
    """What `files_now` said of files that have just been read, with the SHA-256 of their content (of a DICOM
    series, of that of its files). Raises DataError."""
    try:
        return [{**said, HASH: volume_hash(path)} for said, path in zip(inputs, paths)]
    except OSError as error:
        where = ", ".join(map(str, paths))
        raise DataError(f"{where}: cannot be read any more ({error}); see what became of it") from error


def _without_hash(inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: said for key, said in one.items() if key != HASH} for one in inputs]


def made_by() -> dict[str, Any]:
    """Who made a case, and when. peak_bytes: the most memory that the process has had so far."""
    return {
        "written": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "medfuse": medfuse.__version__,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "peak_bytes": peak_memory(),
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
