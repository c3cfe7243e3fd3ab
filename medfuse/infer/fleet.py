"""Several processes at the cases of one folder: they agree on a board, and one of them keeps the manifest.

`OUTPUT/.fleet` holds `work.json`, what there is to do and how, and the board (core.board). Whoever leads
writes it, starts workers, and takes what they settle into the manifest. Any of them may be killed at any
moment: the same command takes in what is there, and does the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import medfuse
from medfuse.api import Case, Crew
from medfuse.core.board import ATTEMPTS, Board, Worker, pause, remedy
from medfuse.core.engine import Engine
from medfuse.core.errors import MedfuseError, OutputError, StorageError
from medfuse.core.files import write_json
from medfuse.core.json_text import read_json, validated
from medfuse.core.leading import reasons_of_lost
from medfuse.core.lock import locked
from medfuse.core.patience import patient
from medfuse.core.seal import Seal
from medfuse.infer.away import size_of_images
from medfuse.infer.fleet_files import (
    ENDING_S,
    FOLDER,
    Listed,
    Work,
    announced,
    carry_along,
    end_work,
    has_work,
    here,
    on_this_machine,
    read_work,
    write_work,
)
from medfuse.infer.ledger import Ledger, Progress, reason_of
from medfuse.infer.manifest import NAME, Manifest, made_by, now
from medfuse.infer.way import Way

ENGINES = "engines.json"
_HOPELESS = 5
"""Workers that end one after another, while nothing else happens."""


class Lost(Exception):
    """Another worker has taken over this case, as this one was thought to be dead."""


class Share:
    """The cases that a worker takes from the board of a fleet. Raises OutputError where there is none."""

    def __init__(
        self, output: Path, *, place: Path | None = None, is_wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """`place`: where its fleet is, if not in the output folder; beside it are others of the same kind."""
        self._place = place or output
        self._common = output / FOLDER if place is None else place.parent
        self.output, self.work = output, read_work(self._place)
        self.board = Board(self._place / FOLDER, len(self.work.cases))
        self.cases = tuple(on_this_machine(self._place, one.case(self.work.where)) for one in self.work.cases)
        self.numbers = {case.name: number for number, case in enumerate(self.cases)}
        self.ways: dict[str, Way] = {}
        self.prepare: Callable[[Case], None] = lambda case: None
        self._is_wanted = is_wanted

    def take(self) -> Case | None:
        """The next case; waits while all that is left is in others' hands, which may yet die."""
        while self._goes_on():
            began = time.monotonic()
            number = self.board.take()
            if number is not None:
                return self._taken(number)
            if not self.board.left:
                return None
            time.sleep(pause(time.monotonic() - began))
        return None

    def take_ahead(self) -> Case | None:
        """One while there are more than enough, so that nobody waits in the end for what another holds."""
        if self.board.untouched <= self.work.workers or not self._goes_on():
            return None
        number = self.board.take()
        return None if number is None else self._taken(number)

    def _taken(self, number: int) -> Case:
        case = self.cases[number]
        self.prepare(case)
        return case

    def _goes_on(self) -> bool:
        return self._is_wanted() and has_work(self._place)

    def engines(self, choose: Callable[[], Sequence[Engine]]) -> Sequence[Engine]:
        """What runs the networks of all workers: chosen by the first of them, for all."""
        path = self._common / ENGINES
        with locked(self._common, wait_s=ENDING_S):
            if not path.exists():
                write_json(path, list(choose()))
        how: dict[str, Any] = {"raises": OutputError, "remedy": remedy(path.parent)}
        return validated(list[dict[str, Any]], read_json(path, **how), str(path), **how)

    def check(self, facts: Mapping[str, Any]) -> None:
        """Raises OutputError where this worker would make other label maps than the others."""
        refuse_other_work(self.output, self.work, facts)


def refuse_other_work(output: Path, work: Work, facts: Mapping[str, Any]) -> None:
    """Raises OutputError where the fleet of a folder is of another version, or makes other label maps."""
    if work.medfuse != medfuse.__version__:
        raise OutputError(
            f"{output}: a fleet of medfuse {work.medfuse} works there, and this is "
            f"{medfuse.__version__}; install the same version on all machines"
        )
    if other := sorted(key for key in {*facts, *work.facts} if facts.get(key) != work.facts.get(key)):
        raise OutputError(
            f"{output}: the fleet there works with other {', '.join(other)}; give all workers the "
            "same weights and settings"
        )


class SharedManifest(Manifest):
    """What is known of the folder, and a record on the board for what becomes of a case."""

    def __init__(self, share: Share) -> None:
        super().__init__(share.output / NAME, share.work.facts)
        self._share = share

    def learn(self, case: Case) -> None:
        """What earlier attempts at a case were about to put in its places."""
        for seals in announced(self._share.board, self._share.numbers[case.name]):
            self.know(seals)

    def announce(self, case: Case, seals: Mapping[str, Seal]) -> None:
        self.know(seals)
        number = self._share.numbers[case.name]
        place = self._share.board.folder / "announced" / f"{number}.{self._share.board.attempt(number)}.json"
        write_json(place, {name: asdict(found) for name, found in seals.items()})

    def note(self, case: Case, seals: Mapping[str, Seal], entry: Mapping[str, Any]) -> None:
        listed = self._share.work.cases[self._share.numbers[case.name]]
        inputs = [dict(one) for one in entry.get("inputs", ())]
        for one, image in zip(inputs, listed.images if not listed.origins else ()):
            one["file"] = str((self._share.work.where / image).absolute())  # as whoever leads knows it
        said = {**entry, "inputs": inputs, **made_by()}
        files = {name: asdict(found) for name, found in seals.items()}
        self._settle(case, {"state": "done", "files": files, "entry": said})

    def note_failure(self, case: Case, reason: str) -> None:
        self._settle(case, {"state": "failed", "reason": reason})

    def note_left(self, case: Case, reason: str) -> None:
        self._settle(case, {"state": "left", "reason": reason})

    def _settle(self, case: Case, record: Mapping[str, Any]) -> None:
        self._share.board.settle(self._share.numbers[case.name], record)

    def write(self) -> None:
        """The manifest is written by whoever leads."""


class SharedLedger(Ledger):
    """A worker's: it tells the board what becomes of the cases that it has taken."""

    def __init__(self, share: Share, files: Callable[[Case], Sequence[str]], *, overwrite: bool) -> None:
        self._own = SharedManifest(share)
        self._board, self._numbers = share.board, share.numbers
        super().__init__(
            share.cases,
            share.work.facts,
            share.output,
            self._doing,
            files,
            lambda case: {},
            overwrite=overwrite,
            manifest=self._own,
        )

    def _doing(self, now: Progress) -> None:
        if now.state == "predicting":
            self._board.doing(case=now.case, done=now.windows_done, of=now.windows)

    @contextmanager
    def staged(self, case: Case) -> Iterator[Path]:
        self._own.learn(case)
        with super().staged(case) as folder:
            yield folder
            if not self._board.holds(self._numbers[case.name]):
                raise Lost(case.name)

    def failed(self, case: Case, error: Exception) -> None:
        """What may pass is tried again, by this worker or another."""
        if isinstance(error, Lost):
            return
        passing = isinstance(error, StorageError) or isinstance(error.__cause__, OSError | MemoryError)
        if isinstance(error, MedfuseError) and not passing:
            super().failed(case, error)
            return
        number = self._numbers[case.name]
        if self._board.holds(number):
            self._board.give_up(number, reason_of(case, error))


@dataclass(frozen=True)
class Fleet:
    """Workers that are to be: `start` makes so many, which are told `how` by what is in the folder.

    engines: what is to run the networks, if that is known. verb: what is done with the cases.
    """

    start: Callable[[int], Crew]
    workers: int
    how: Mapping[str, Any]
    engines: Sequence[Engine] = ()
    verb: str = "infer"

    def lead(self, left: Sequence[Case], ledger: Ledger, output: Path, facts: Mapping[str, Any]) -> None:
        """`left` is done, and `ledger` is told. Raises MedfuseError with the reason of workers that cannot
        work at all."""
        if not left:
            return
        left = by_size(left)
        board = Board(output / FOLDER, len(left))
        if self.engines:
            write_json(output / FOLDER / ENGINES, list(self.engines))
        work = Work(
            medfuse=medfuse.__version__,
            facts=dict(facts),
            how=dict(self.how),
            cases=tuple(Listed.of(case) for case in left),
            began=now(),
            workers=self.workers,
            verb=self.verb,
            where=here(),
        )
        carry_along(output, left)
        write_work(output, work)
        try:
            crew = self.start(min(self.workers, len(left)))
        except BaseException:  # nobody works there, nor will
            rmtree(output / FOLDER, ignore_errors=True)
            raise
        try:
            _follow(left, board, ledger, crew)
        finally:
            end_work(output)
            crew.end()
            ledger.gather()


def _follow(left: Sequence[Case], board: Board, ledger: Ledger, crew: Crew) -> None:
    """Until every case is settled."""
    settled: dict[int, bool] = {}
    without_news = 0
    while len(settled) < len(left):
        before, began = len(settled), time.monotonic()
        records, workers = _looked_at(board, settled)
        for number, record in records:
            settled[number] = True
            ledger.take_in(left[number], record)
        for worker in workers:
            if doing := worker.doing:
                ledger.follow(doing["case"], doing["done"], doing["of"])
        without_news = 0 if len(settled) > before else without_news
        for reason in reasons_of_lost(crew, board, "another takes its case"):
            without_news += 1
            if without_news > _HOPELESS + 2 * ATTEMPTS:
                raise MedfuseError(f"workers end one after another: {reason}")
            if len(settled) < len(left):
                crew.add()
        if len(settled) < len(left):
            time.sleep(pause(time.monotonic() - began))


@patient
def _looked_at(board: Board, settled: Mapping[int, Any]) -> tuple[list[tuple[int, Any]], list[Worker]]:
    """What is settled now and was not, and who is at work."""
    return [*board.records(settled)], board.workers()


def by_size(cases: Sequence[Case]) -> list[Case]:
    """The largest first, which take longest."""
    return sorted(cases, key=lambda case: (-size_of_images(case), case.name))
