"""What a fleet leaves in `OUTPUT/.fleet`: what there was to do (`work.json`), and what became of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from shutil import copy2, rmtree
from typing import Any

from pydantic import BaseModel, ConfigDict

from medfuse.api import Case
from medfuse.core.board import ATTEMPTS, POLL_S, Board, remedy
from medfuse.core.errors import OutputError
from medfuse.core.files import atomic, reported
from medfuse.core.json_text import read_json, validated
from medfuse.core.remembered import cache_folder, make_private
from medfuse.core.seal import Seal
from medfuse.core.storage import Item
from medfuse.core.text import typed
from medfuse.infer.away import Away, size_of_images
from medfuse.infer.manifest import Entry, Manifest
from medfuse.volumes.endings import SERIES, ending

FOLDER, SHARDS = ".fleet", ".shards"
ENDING_S = 600.0
"""For workers of an earlier call to end with their case."""
_WORK, _ENDED = "work.json", "ended.json"
_MOST_BYTES = 2**30


class Listed(BaseModel):
    """A case of a fleet."""

    model_config = ConfigDict(frozen=True)

    name: str
    images: tuple[Path, ...]
    origins: tuple[tuple[Item, ...], ...] = ()
    bytes: int = 0

    @classmethod
    def of(cls, case: Case) -> Listed:
        origins = case.origins if isinstance(case, Away) else ()
        return cls(name=case.name, images=case.images, origins=origins, bytes=size_of_images(case))

    def case(self, where: Path = Path()) -> Case:
        """`where`: the working directory that paths start at."""
        if self.origins:
            return Away(self.name, self.images, origins=self.origins)
        images = self.images if where == here() else tuple(where / image for image in self.images)
        return Case(self.name, images)


class Work(BaseModel):
    """What a fleet does. facts: of the recipe, which each worker's must equal. how: a worker's options.

    verb: what is done with the cases, infer or features. where: the working directory that paths of images
    start at; workers may be in another.
    """

    model_config = ConfigDict(frozen=True)

    medfuse: str
    facts: dict[str, Any]
    how: dict[str, Any]
    cases: tuple[Listed, ...]
    began: str
    workers: int
    verb: str = "infer"
    where: Path = Path()


def here() -> Path:
    """The working directory, as far as there is one."""
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return Path()


def carry_along(output: Path, cases: Iterable[Case]) -> None:
    """Small files that stand for DICOM series go from a cache of this machine to where all see them."""
    for image in (image for case in cases for image in case.images):
        if ending(image) == SERIES and image.is_file():
            copy = _carried(output, image)
            make_private(copy.parent)
            with reported(copy):
                copy2(image, copy)  # with its time, by which a changed image is noticed


def on_this_machine(output: Path, case: Case) -> Case:
    """A case whose small files are in a cache of another machine, with copies in that of this one."""
    images = []
    for image in case.images:
        carried = _carried(output, image)
        if ending(image) == SERIES and not image.exists() and carried.is_file():
            image = cache_folder() / "series" / image.parent.name / image.name
            make_private(image.parent)
            with reported(image):
                copy2(carried, image)
        images.append(image)
    return replace(case, images=tuple(images))


def _carried(output: Path, image: Path) -> Path:
    return output / FOLDER / "series" / image.parent.name / image.name


def has_work(output: Path) -> bool:
    return (output / FOLDER / _WORK).is_file()


def parts(output: Path) -> list[Path]:
    """Where the fleets of shards are that were begun, and are not in the manifest yet (see infer.shards)."""
    try:
        return sorted(path for path in (output / SHARDS).iterdir() if path.is_dir())
    except FileNotFoundError:
        return []


def read_work(output: Path) -> Work:
    """What the fleet of a folder does. Raises OutputError where none works there."""
    if not has_work(output):
        raise OutputError(
            f"{output}: no fleet works there; `medfuse infer … --workers 2 --output {typed(output)}` "
            "starts one"
        )
    return _read(output / FOLDER / _WORK)


def _read(path: Path) -> Work:
    what = remedy(path.parent)
    content = read_json(path, raises=OutputError, remedy=what, most_bytes=_MOST_BYTES)
    return validated(Work, content, str(path), raises=OutputError, remedy=what)


def write_work(output: Path, work: Work) -> None:
    """From now on workers know what there is to do."""
    path = output / FOLDER / _WORK
    with atomic(path) as temporary:
        temporary.write_text(work.model_dump_json(), encoding="utf-8")


def end_work(output: Path) -> None:
    """Workers take no further case."""
    if has_work(output):
        with reported(output):
            (output / FOLDER / _WORK).replace(output / FOLDER / _ENDED)


def announced(board: Board, number: int) -> Iterator[dict[str, Seal]]:
    """The files that each attempt at a case was about to put in their places."""
    for attempt in range(1, ATTEMPTS + 1):
        path = board.folder / "announced" / f"{number}.{attempt}.json"
        if path.exists():
            what = remedy(board.folder)
            said = read_json(path, raises=OutputError, remedy=what)
            yield validated(dict[str, Seal], said, str(path), raises=OutputError, remedy=what)


def seals_in(record: Mapping[str, Any]) -> dict[str, Seal]:
    """The files of a case that is settled. Raises OutputError."""
    where, what = f"{FOLDER}/records: files", f"remove the folder {FOLDER}, and run the same command again"
    return validated(dict[str, Seal], record.get("files", {}), where, raises=OutputError, remedy=what)


def entry_in(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest is to say of a case that is done. Raises OutputError."""
    entry = record.get("entry")
    if not isinstance(entry, dict) or not isinstance(entry.get("windows"), int):
        raise OutputError(
            f"{FOLDER}/records: a case is done, and nothing is said of it; remove the folder {FOLDER}, and "
            "run the same command again"
        )
    where, what = f"{FOLDER}/records", f"remove the folder {FOLDER}, and run the same command again"
    validated(Entry, entry, where, raises=OutputError, remedy=what)
    return entry


def reason_in(record: Mapping[str, Any]) -> str:
    """Why a case is not done."""
    return str(record.get("reason") or "no reason was told")


def gather(manifest: Manifest, output: Path) -> None:
    """Take in what a fleet has settled, once its last workers have ended, and clear it away.

    Raises OutputError where some go on working.
    """
    folder = output / FOLDER
    if not folder.exists():
        return
    end_work(output)
    if not (folder / _ENDED).is_file():  # it had not begun
        rmtree(folder, ignore_errors=True)
        return
    work = _read(folder / _ENDED)
    board = Board(folder, len(work.cases), make=False)
    _wait_for(board, output)
    same = all(manifest.facts.get(key) == value for key, value in work.facts.items())
    records = dict(board.records())
    for number in range(len(work.cases)):
        if number not in records or records[number]["state"] != "done":
            for seals in announced(board, number):
                manifest.know(seals)
    for number, record in records.items():
        name, seals = work.cases[number].name, seals_in(record)
        if record["state"] == "done" and same:
            manifest.take(name, seals, entry_in(record))
        manifest.know(seals)
    manifest.write()
    rmtree(folder, ignore_errors=True)


def _wait_for(board: Board, output: Path) -> None:
    until = time.monotonic() + ENDING_S
    while alive := [worker for worker in board.workers() if worker.is_alive]:
        if time.monotonic() > until:
            raise OutputError(
                f"{output}: {len(alive)} workers of an earlier call go on there, such as process "
                f"{alive[0].pid} on {alive[0].host}; end them, or wait until they have"
            )
        time.sleep(POLL_S)
