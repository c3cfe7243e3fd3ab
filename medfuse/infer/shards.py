"""A part of the cases of a folder, such as 3 of 16, by a process that needs no other.

A part is the same whoever asks: cases go, the largest first, to the part that has least. A process founds the
fleet `OUTPUT/.shards/3-of-16`, works there alone, and takes what was settled into the manifest. So the same
command carries on what was killed, and parts may be done at once or one after another, on any machines. Only
the manifest is common to them, and it is held for moments.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import medfuse
from medfuse.api import Case
from medfuse.core.board import Board, Worker
from medfuse.core.crew import is_wanted
from medfuse.core.errors import OutputError
from medfuse.core.files import make_folder
from medfuse.core.lock import locked
from medfuse.infer.away import size_of_images
from medfuse.infer.fleet import Share, by_size, refuse_other_work
from medfuse.infer.fleet_files import (
    ENDING_S,
    FOLDER,
    SHARDS,
    Listed,
    Work,
    carry_along,
    has_work,
    here,
    parts,
    read_work,
    write_work,
)
from medfuse.infer.ledger import Ledger, Outcome
from medfuse.infer.manifest import now

_BEGINNING_S = 60.0  # others hold the manifest for moments, and a process that does all of it for long

Opened = Callable[[Sequence[Case]], Ledger]
"""The ledger of some cases of the output folder, which is held meanwhile."""
Unfinished = Callable[[Ledger, Sequence[Case]], Sequence[Case]]
"""Those of some cases that are to be done; the ledger is told of others."""


@dataclass(frozen=True)
class Shard:
    """Part `index`, from 0, of `count` parts."""

    index: int
    count: int

    def of(self, cases: Sequence[Case]) -> list[Case]:
        """The cases of this part. Parts are equal in bytes as nearly as the cases allow."""
        loads = [(0, index) for index in range(self.count)]
        mine = []
        for case in by_size(cases):
            load, index = loads[0]
            heapq.heapreplace(loads, (load + max(1, size_of_images(case)), index))
            if index == self.index:
                mine.append(case)
        return mine

    def place(self, output: Path) -> Path:
        return output / SHARDS / f"{self.index}-of-{self.count}"


def found(
    shard: Shard,
    cases: Sequence[Case],
    output: Path,
    facts: Mapping[str, Any],
    opened: Opened,
    unfinished: Unfinished,
) -> Share:
    """The board of a part, with what is left of it: made by the first that comes, joined by the next.

    This process is a worker there as soon as others may look, who would take a part without one for left
    behind; `gathered` ends that. Raises OutputError where parts are at work with other weights, of another
    version, or of another number, and where a process does all of them.
    """
    place, mine = shard.place(output), shard.of(cases)
    with locked(make_folder(output), wait_s=_BEGINNING_S):
        _refuse_other_parts(shard, output, facts)
        if not has_work(place):
            ledger = opened(mine)
            gather_parts(ledger, output)
            left = by_size(unfinished(ledger, mine))
            Board(place / FOLDER, len(left))
            work = Work(
                medfuse=medfuse.__version__,
                facts=dict(facts),
                how={},
                cases=tuple(Listed.of(case) for case in left),
                began=now(),
                workers=1,
                where=here(),
            )
            carry_along(place, left)
            write_work(place, work)
        share = Share(output, place=place, is_wanted=is_wanted)
        share.board.join()
        return share


def gathered(
    shard: Shard, share: Share, cases: Sequence[Case], output: Path, opened: Opened, unfinished: Unfinished
) -> Outcome:
    """What became of the cases of a part, which is in the manifest then.

    Raises OutputError where nothing has become of some.
    """
    place, mine = shard.place(output), shard.of(cases)
    records: dict[str, Mapping[str, Any]] = {}
    records |= {share.cases[number].name: record for number, record in share.board.records()}
    share.board.leave()  # from here on others may clear the part away
    with locked(output, wait_s=ENDING_S):
        if has_work(place):
            work = read_work(place)
            board = Board(place / FOLDER, len(work.cases), make=False)
            records |= {work.cases[number].name: record for number, record in board.records()}
        ledger = opened(mine)
        for case in mine:
            if case.name in records:
                ledger.take_in(case, records[case.name])
        _take(ledger, place)
        unfinished(ledger, [case for case in mine if case.name not in records])
        return ledger.finish(of=[case.name for case in cases], part=(shard.index, shard.count))


def gather_parts(ledger: Ledger, output: Path) -> None:
    """What parts that nobody works on any more have settled is in the manifest."""
    for place in parts(output):
        if not _at_work(place):
            _take(ledger, place)


def refuse_parts(output: Path) -> None:
    """Raises OutputError where parts are at work, beside which one process is not to do all of them."""
    for place in parts(output):
        for worker in _at_work(place):
            raise OutputError(
                f"{output}: process {worker.pid} on {worker.host} works on --shard {_said(place)} there; "
                "wait until it has ended, or choose another folder"
            )


def _refuse_other_parts(shard: Shard, output: Path, facts: Mapping[str, Any]) -> None:
    for place in parts(output):
        if not (workers := _at_work(place)):
            continue
        if place.name.rpartition("-")[2] != str(shard.count):
            raise OutputError(
                f"{output}: process {workers[0].pid} on {workers[0].host} works on --shard {_said(place)} "
                f"there, and this is one of {shard.count}; give all of them the same number, or wait"
            )
        refuse_other_work(output, read_work(place), facts)


def _at_work(place: Path) -> list[Worker]:
    if not has_work(place):
        return []
    return [worker for worker in Board(place / FOLDER, 0, make=False).workers() if worker.is_alive]


def _said(place: Path) -> str:
    return place.name.replace("-of-", "/")


def _take(ledger: Ledger, place: Path) -> None:
    ledger.gather(place)
    rmtree(place, ignore_errors=True)
    if not any(path.is_dir() for path in place.parent.glob("*")):
        rmtree(place.parent, ignore_errors=True)
