"""The cases of one call: what became of each, told by any thread, and their files put in their places."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from medfuse.api import Case
from medfuse.core.board import ATTEMPTS, set_aside
from medfuse.core.engine import Engine, differences
from medfuse.core.errors import DataError, MedfuseError, OutputError, StorageError
from medfuse.core.files import UNFINISHED, atomic, claimed, remove_leftovers, reported
from medfuse.core.json_text import shortened
from medfuse.core.memory import LACKS, lacks_memory
from medfuse.core.seal import Seal, seal
from medfuse.core.section import MOST_BYTES_OF_A_NAME
from medfuse.core.text import listed
from medfuse.infer.fleet_files import entry_in, gather, reason_in, seals_in
from medfuse.infer.manifest import NAME, InTheWay, Manifest
from medfuse.infer.records import WRITERS, record_files, rows
from medfuse.quality.table import NAME as TABLE
from medfuse.quality.table import as_csv, summary_line

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where the work stands: case `number` of `cases` (from 1), and `windows_done` of its `windows`."""

    case: str
    number: int
    cases: int
    state: Literal["predicting", "done", "skipped", "failed", "left"] = "predicting"
    windows_done: int = 0
    windows: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of the cases, by name. `failed` and `left` hold the reasons.

    left: cases whose files stayed as they are, because medfuse did not write them or somebody changed them.
    quality: a line of how many should be looked at; nothing without scores.
    """

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: Mapping[str, str]
    manifest: Path
    left: Mapping[str, str]
    quality: str = ""


class Ledger:
    """The cases of one call, in the manifest of `output` and to `progress`. Any thread may tell it.

    `output` is a folder that this process holds (see core.lock). `files`: the names of what is written for a
    case; `former`: those that earlier calls may have given it, and what is written in place of each, if
    anything.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        facts: Mapping[str, Any],
        output: Path,
        progress: Callable[[Progress], None],
        files: Callable[[Case], Sequence[str]],
        former: Callable[[Case], Mapping[str, str]],
        *,
        overwrite: bool = False,
        manifest: Manifest | None = None,
        others_stay: bool = False,
        given: Mapping[str, Mapping[str, Any]] = {},
    ) -> None:
        """`others_stay`: whether the manifest goes on telling why other cases have failed, or were left."""
        self._manifest = manifest or Manifest(output / NAME, facts)
        if others_stay:
            self._manifest.keep_reasons({case.name for case in cases})
        self._manifest.given = given
        if manifest is None:
            gather(self._manifest, output)
        remove_leftovers(output)
        self._output, self._place = output, _place(output)
        self._files, self._former, self._overwrite = files, former, overwrite
        self._progress = progress
        self._lock = threading.RLock()
        self._last = {case.name: Progress(case.name, n, len(cases)) for n, case in enumerate(cases, 1)}
        self._cases, self._by_name = cases, {case.name: case for case in cases}
        self._has_told = False
        self._tries: dict[str, list[str]] = {}
        self.again: Callable[[Case], None] | None = None
        self._seals: dict[str, dict[str, Seal]] = {}

    def unfinished(self, *, strict: bool = False, among: Sequence[Case] | None = None) -> list[Case]:
        """The cases that are to be done. Others are told to be finished, or to be left as they are.

        With `strict` those fail that were finished although their images are unlike those of training.
        """
        left = []
        for case in self._cases if among is None else among:
            names = self._files(case)
            if self._manifest.has(case, names):
                if strict and (unlike := self._manifest.unlike(case)):
                    line = f"{self._output / names[0]}: is of an image unlike those of training: "
                    remedy = "remove it, or leave out --strict"
                    self._tell(case, state="failed", reason=f"{line}{'; '.join(unlike)}; {remedy}")
                else:
                    self._tell(case, state="skipped")
                continue
            if long := [name for name in names if len(os.fsencode(name)) > MOST_BYTES_OF_A_NAME]:
                place = self._output / shortened(long[0], 80)
                self.failed(case, OutputError(f"{place}: the name is too long for a file; rename its image"))
                continue
            try:
                self._manifest.refuse_to_replace(names, overwrite=self._overwrite)
                left.append(case)
            except InTheWay as reason:
                self.failed(case, reason)
        return left

    def windows(self, case: Case, done: int = 0, of: int = 0) -> None:
        """The work on a case has begun, or come so far."""
        with self._lock:
            if self._last[case.name].state == "predicting":
                self._tell(case, windows_done=done, windows=of)

    @contextmanager
    def staged(self, case: Case) -> Iterator[Path]:
        """A hidden folder for the files of a case, which go to their places when the block ends well.

        By then the manifest knows them by their hash. Raises InTheWay where something has come to stand there
        that is not to be replaced, and OutputError where nothing can be written, or the output folder has
        gone.
        """
        staging = self._output / f"{UNFINISHED}{secrets.token_hex(4)}"
        try:
            self._refuse_to_wander()
            with reported(self._output):
                staging.mkdir()
            with claimed(staging), _in_words_of(self._output, staging):
                yield staging
                seals = {name: seal(staging / name) for name in self._files(case)}
                with self._lock:
                    self._refuse_to_wander()
                    self._manifest.refuse_to_replace([*seals], overwrite=self._overwrite)
                    self._manifest.announce(case, seals)
                placed = {name: self._manifest.place(name, staging / name, s) for name, s in seals.items()}
                self._seals[case.name] = placed
        except Exception:
            self._refuse_to_wander()  # which explains what went wrong
            raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def done(self, case: Case, entry: Mapping[str, Any]) -> None:
        """Its files are in their places; `entry` is what the manifest says of it, with `windows`."""
        with self._lock:
            self._tell_of_another_engine(entry.get("engines", ()))
            self._manifest.note(case, self._seals.pop(case.name), entry)
            self._tell(case, state="done", windows_done=entry["windows"], windows=entry["windows"])

    def failed(self, case: Case, error: Exception) -> None:
        """It cannot be done; or, of InTheWay, it is left as it is."""
        with self._lock:
            if isinstance(error, InTheWay):
                self._manifest.note_left(case, str(error))
                self._tell(case, state="left", reason=str(error))
                return
            reason = reason_of(case, error)
            if isinstance(error, StorageError) and self.again is not None:
                tries = self._tries.setdefault(case.name, [])
                tries.append(reason)
                if len(tries) < ATTEMPTS:
                    self.again(self._by_name[case.name])
                    return
                reason = set_aside(tries)
            self._manifest.note_failure(case, reason)
            self._tell(case, state="failed", reason=reason)

    def take_in(self, case: Case, record: Mapping[str, Any]) -> None:
        """What a worker of a fleet says became of a case; it is in the manifest once `gather` is called."""
        with self._lock:
            if record["state"] == "done":
                entry, seals = entry_in(record), seals_in(record)
                try:
                    self._manifest.arrived(case.name, seals)
                except DataError as error:
                    self.failed(case, error)
                    return
                self._tell_of_another_engine(entry.get("engines", ()))
                self._manifest.take(case.name, seals, entry)
                self._tell(case, state="done", windows_done=entry["windows"], windows=entry["windows"])
            elif record["state"] == "failed":
                self._manifest.take_failure(case.name, reason_in(record))
                self._tell(case, state="failed", reason=reason_in(record))
            else:
                self._manifest.note_left(case, reason_in(record))
                self._tell(case, state="left", reason=reason_in(record))

    def follow(self, name: str, done: int, of: int) -> None:
        """How far a worker of a fleet is with a case."""
        with self._lock:
            last = self._last[name]
            if last.state == "predicting" and (last.windows_done, last.windows) != (done, of):
                self._last[name] = replace(last, windows_done=done, windows=of)
                self._progress(self._last[name])

    def gather(self, place: Path | None = None) -> None:
        """What a fleet in `place` has settled is in the manifest and its table, and its files are gone."""
        gather(self._manifest, place or self._output)
        remove_leftovers(self._output)
        self._write_records()

    def finish(self, of: Sequence[str] | None = None, part: tuple[int, int] | None = None) -> Outcome:
        """What became of the cases. Label maps of earlier calls that others stand for now are gone then.

        of: all that is to be told of until the folder is finished, where that is more than these cases.
        part: these cases are this one of so many. Raises OutputError where nothing has become of a case.
        """
        undone = [last.case for last in self._last.values() if last.state == "predicting"]
        self._clear()
        self._write_quality()
        if part is not None and not undone:
            self._manifest.note_part(*part)
        if not undone and (of is None or self._manifest.tells_of(of)):
            self._manifest.end()
        self._write_records()
        if undone:
            raise OutputError(
                f"{self._output}: {len(undone)} of {len(self._last)} cases are not done, and nothing says "
                f"why: {listed(undone)}; run the same command again"
            )
        return self.outcome

    @property
    def outcome(self) -> Outcome:
        """What became of the cases so far."""
        last = self._last.values()
        return Outcome(
            done=tuple(p.case for p in last if p.state == "done"),
            skipped=tuple(p.case for p in last if p.state == "skipped"),
            failed={p.case: p.reason for p in last if p.state == "failed"},
            manifest=self._manifest.path,
            left={p.case: p.reason for p in last if p.state == "left"},
            quality=summary_line(self._entries_of_cases(), self._output / TABLE),
        )

    def _entries_of_cases(self) -> dict[str, Mapping[str, Any]]:
        """What the manifest says of the cases of this call."""
        entries = self._manifest.entries
        return {name: entries[name] for name in self._last if name in entries}

    def _write_quality(self) -> None:
        """quality.csv of all cases that the manifest lists with scores; what is not medfuse's stays, told."""
        if not any("quality" in entry for entry in self._manifest.entries.values()):
            return
        try:
            self._manifest.refuse_to_replace([TABLE], overwrite=self._overwrite)
        except InTheWay as reason:
            log.warning("%s; so the table of scores is not written", reason)
            return
        with self._table(TABLE) as path:
            path.write_text(as_csv(self._manifest.entries), encoding="utf-8")

    @contextmanager
    def _table(self, name: str) -> Iterator[Path]:
        """A hidden place for a file about all cases, which goes to its own when the block ends well.

        By then the manifest knows it by its hash, so that it is medfuse's own when it is written anew.
        """
        with atomic(self._output / name) as temporary:
            yield temporary
            self._manifest.know_table(name, seal(temporary))

    def _write_records(self) -> None:
        """The manifest as a table, beside it. What others have put in its place stays, and is told."""
        table = list(rows(self._manifest.content, self._cases, self._manifest.given))
        with ExitStack() as written:
            for name in record_files():
                try:
                    self._manifest.refuse_to_replace([name], overwrite=self._overwrite)
                except InTheWay as reason:
                    log.warning("%s; so no table of the cases is written there", reason)
                    continue
                temporary = written.enter_context(atomic(self._output / name))
                WRITERS[name](temporary, table)
                self._manifest.replace(name, seal(temporary))
            self._manifest.write()  # which knows them before they are there
        self._manifest.publish([*record_files(), TABLE])

    def _clear(self) -> None:
        """What earlier calls wrote for finished cases, under other names: it goes where something else is
        written in its place and nobody touched it, and is told."""
        finished = [case for case in self._cases if self._last[case.name].state in ("done", "skipped")]
        wanted = {name for case in self._cases for name in self._files(case)}
        gone, stay = list[str](), list[str]()
        for case in finished:
            former = {name: new for name, new in self._former(case).items() if name not in wanted}
            for name, untouched in self._manifest.left_by_earlier_calls(former):
                if untouched and former[name]:
                    with reported(self._output / name):
                        (self._output / name).unlink()
                    self._manifest.forget(name)
                    gone.append(f"{name} for {former[name]}")
                else:
                    stay.append(name)
        if gone:
            log.info("%s: label maps of earlier calls gave way to others: %s", self._output, listed(gone))
        if stay:
            log.warning(
                "%s: from earlier calls, and not of the cases as they are now: %s; delete what is not wanted",
                self._output,
                listed(stay),
            )

    def _tell_of_another_engine(self, engines: Sequence[Engine]) -> None:
        """One line where the first cases of the folder were made otherwise."""
        found = [differences(*pair) for pair in zip(self._manifest.engines, engines)]
        changed = list(dict.fromkeys(one for each in found for one in each))
        if changed and not self._has_told:
            self._has_told = True
            log.warning(
                "%s: its first cases were made otherwise (%s), so labels may differ where two are nearly as "
                "likely; use another output folder for label maps of one kind",
                self._output,
                "; ".join(changed),
            )

    def _refuse_to_wander(self) -> None:
        """An output folder that is deleted or unmounted is not made anew elsewhere."""
        if _place(self._output) != self._place:
            raise OutputError(
                f"{self._output}: has gone while it was written into; see whether it was moved, deleted or "
                "unmounted, and run the same command again"
            )

    def _tell(self, case: Case, **now: Any) -> None:
        self._last[case.name] = replace(self._last[case.name], **now)
        self._progress(self._last[case.name])


def _place(folder: Path) -> tuple[int, int] | None:
    """Which folder of which disk it is."""
    try:
        about = folder.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


@contextmanager
def _in_words_of(output: Path, staging: Path) -> Iterator[None]:
    """Errors name the places that files were meant for."""
    try:
        yield
    except OutputError as error:
        raise OutputError(*(line.replace(str(staging), str(output)) for line in error.lines)) from error


def reason_of(case: Case, error: Exception) -> str:
    """Why a case has failed, in a line; what nobody foresaw is in the log, too."""
    if isinstance(error, MedfuseError):
        return "; ".join(error.lines)
    if lacks_memory(error):
        return LACKS
    log.error("case %s failed unexpectedly", case.name, exc_info=error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} (please report it)"
