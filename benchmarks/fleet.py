"""A fleet that is too large for any test, event by event: what is its tail, and how busy are its workers?

    python benchmarks/fleet.py [--manifest OUTPUT/manifest.json …] [--cases 100000] [--workers 256]
                               [--lost 0.01] [--seed 1]

Times per case (reading, network, writing) and sizes are those of real cases: of the manifests that are given,
or of scans of seven sizes that are inferred first (two minutes), drawn anew for each of the cases. Workers
follow the rules of medfuse's board: the largest files first, one case read ahead while the network works and
more are left than workers, the cases of a dead worker taken over by whoever looks after its heartbeat has
been missed. On top come what fleets meet: workers that are slower for good, cases that take several times as
long as their size says, a storage that all share and that is slow at times, and workers that are lost for
good. The result is a block of Markdown for docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import statistics
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from medfuse.core.board import BEAT_S, DEAD_S, LOOK_S, POLL_S
from medfuse.infer.manifest import size_of

_SIZES = ((128, 60), (160, 80), (192, 80), (192, 120), (224, 120), (256, 140), (288, 160))


class Scan(NamedTuple):
    """A case: seconds of a worker's network and of its hands (decoding, packing), and bytes in and out."""

    network_s: float
    decoding_s: float
    packing_s: float
    read_bytes: float
    written_bytes: float


@dataclass(frozen=True)
class World:
    """What a fleet meets.

    slower: of workers, the spread (sigma of a lognormal) of how fast they are. lame: the share of workers
    that are three times as slow. odd: the share of cases that take `odd_times` as long as their size says.
    storage: bytes a second, of all workers together and of one. slow: a tenth of that, for ten minutes of
    every so many. lost: the share of workers that end for good, at any time of the first nine tenths.
    """

    workers: int
    slower: float = 0.05
    lame: float = 0.02
    odd: float = 0.005
    odd_times: float = 4.0
    storage: float = 5e9
    link: float = 2e8
    slow_every_s: float = 7200.0
    slow_for_s: float = 600.0
    slow_to: float = 0.1
    lost: float = 0.01
    start_s: float = 60.0
    operation_s: float = 0.002
    looks_after_lost: bool = True


@dataclass
class Storage:
    """Reads and writes that share what the storage gives, each at most a link's rate; exact, by virtual time:
    how many bytes a transfer has got that has been there from the start."""

    world: World
    given: float = 0.0
    at: float = 0.0
    slow: bool = False
    ends: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    number: int = 0

    @property
    def rate(self) -> float:
        whole = self.world.storage * (self.world.slow_to if self.slow else 1.0)
        return min(self.world.link, whole / max(1, len(self.ends)))

    def move_to(self, now: float) -> None:
        self.given += (now - self.at) * self.rate
        self.at = now

    def begin(self, size: float, then: Callable[[], None]) -> None:
        self.number += 1
        heapq.heappush(self.ends, (self.given + size, self.number, then))

    @property
    def next_end(self) -> float:
        return self.at + max(0.0, self.ends[0][0] - self.given) / self.rate if self.ends else math.inf


@dataclass
class Worker:
    speed: float
    alive: bool = True
    holds: set[int] = field(default_factory=set)
    ready: deque[int] = field(default_factory=deque)
    coming: int = 0
    busy: bool = False
    idle_since: float | None = None
    looked: float = 0.0


@dataclass(frozen=True)
class Told:
    """What became of a fleet. tail_s: from the first worker that found nothing more to the end."""

    wall_s: float
    tail_s: float
    useful_s: float
    worked_s: float
    there_s: float
    moved_bytes: float
    doubled: int


class Fleet:
    """One run, from the start of the workers to the last record."""

    def __init__(self, scans: Sequence[Scan], world: World, seed: int) -> None:
        self.world, self.random = world, random.Random(seed)
        sizes = sorted(range(len(scans)), key=lambda number: -scans[number].read_bytes)
        self.scans = [self._as_it_is(scans[number]) for number in sizes]
        self.storage = Storage(world)
        self.front, self.settled, self.again = 0, [False] * len(scans), deque[int]()
        self.left = len(scans)
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count, self.now, self.worked, self.doubled, self.moved = 0, 0.0, 0.0, 0, 0.0
        self.first_idle: float | None = None
        self.waiting: list[Worker] = []
        self.died: list[float] = []
        self.workers = [Worker(self._speed()) for _ in range(world.workers)]

    def _as_it_is(self, scan: Scan) -> Scan:
        odd = self.world.odd_times if self.random.random() < self.world.odd else 1.0
        return scan._replace(network_s=scan.network_s * odd)

    def _speed(self) -> float:
        lame = 3.0 if self.random.random() < self.world.lame else 1.0
        return lame * math.exp(self.random.gauss(0.0, self.world.slower))

    def at(self, when: float, what: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, what))

    def run(self) -> Told:
        world = self.world
        about_s = sum(scan.network_s for scan in self.scans) / world.workers
        for worker in self.workers:
            self.at(self.random.uniform(0.5, 1.5) * world.start_s, lambda worker=worker: self._take(worker))
        for worker in self.random.sample(self.workers, round(world.lost * world.workers)):
            self.at(self.random.uniform(0.0, 0.9) * about_s, lambda worker=worker: self._lose(worker))
        if world.slow_every_s:
            self.at(self.random.uniform(0.0, world.slow_every_s), self._slow_down)
        while self.left:
            if self.storage.next_end <= (self.events[0][0] if self.events else math.inf):
                self.now = self.storage.next_end
                self.storage.move_to(self.now)
                heapq.heappop(self.storage.ends)[2]()
            else:
                self.now, _, what = heapq.heappop(self.events)
                self.storage.move_to(self.now)
                what()
        first = self.now if self.first_idle is None else self.first_idle
        lived = sum(self.died) + self.now * (world.workers - len(self.died))
        useful = sum(scan.network_s for scan in self.scans)
        return Told(self.now, self.now - first, useful, self.worked, lived, self.moved, self.doubled)

    # ---- what happens

    def _slow_down(self) -> None:
        self.storage.slow = True
        self.at(self.now + self.world.slow_for_s, self._recover)

    def _recover(self) -> None:
        self.storage.slow = False
        self.at(self.now + self.random.expovariate(1 / self.world.slow_every_s), self._slow_down)

    def _lose(self, worker: Worker) -> None:
        worker.alive = False
        self.died.append(self.now)
        lost = [number for number in worker.holds if not self.settled[number]]
        self.at(self.now + DEAD_S + BEAT_S, lambda: self._found_lost(lost))

    def _found_lost(self, lost: Sequence[int]) -> None:
        self.again.extend(lost)

    def _take(self, worker: Worker, *, ahead: bool = False) -> None:
        """A case for a worker, whose reading begins; or it waits until one is to be tried again."""
        if not worker.alive or not self.left:
            return
        number = self._next(worker, ahead=ahead)
        if number is not None:
            worker.idle_since = None
            worker.holds.add(number)
            worker.coming += 1
            scan = self.scans[number]
            claimed = self.now + self.world.operation_s * (2 + 2 * math.log2(self.world.workers))
            self.at(claimed, lambda: self._read(worker, number, scan))
        elif not ahead:
            if self.first_idle is None and self.front >= len(self.scans):
                self.first_idle = self.now
            self.at(self.now + max(POLL_S, 1.0), lambda: self._take(worker))

    def _next(self, worker: Worker, *, ahead: bool) -> int | None:
        nothing_else = self.front >= len(self.scans)
        looks = self.world.looks_after_lost and self.now - worker.looked >= LOOK_S
        if self.again and (nothing_else or looks) and not ahead:
            return self.again.popleft()
        if looks:
            worker.looked = self.now
        if nothing_else or (ahead and len(self.scans) - self.front <= self.world.workers):
            return None
        self.front += 1
        return self.front - 1

    def _read(self, worker: Worker, number: int, scan: Scan) -> None:
        self.moved += scan.read_bytes
        self.storage.begin(scan.read_bytes, lambda: self._decode(worker, number))

    def _decode(self, worker: Worker, number: int) -> None:
        seconds = self.scans[number].decoding_s * worker.speed
        self.at(self.now + seconds, lambda: self._is_read(worker, number))

    def _is_read(self, worker: Worker, number: int) -> None:
        worker.coming -= 1
        worker.ready.append(number)
        self._predict(worker)

    def _predict(self, worker: Worker) -> None:
        if worker.busy or not worker.alive:
            return
        if not worker.ready:
            if not worker.coming:
                self._take(worker)
            return
        number = worker.ready.popleft()
        worker.busy = True
        seconds = self.scans[number].network_s * worker.speed
        self.at(self.now + seconds, lambda: self._predicted(worker, number, seconds))
        self._take(worker, ahead=True)

    def _predicted(self, worker: Worker, number: int, seconds: float) -> None:
        if not worker.alive:
            return
        worker.busy = False
        self.worked += seconds
        packing = self.scans[number].packing_s * worker.speed
        self.at(self.now + packing, lambda: self._write(worker, number))
        self._predict(worker)

    def _write(self, worker: Worker, number: int) -> None:
        size = self.scans[number].written_bytes
        self.moved += size
        self.storage.begin(size, lambda: self._settle(worker, number))

    def _settle(self, worker: Worker, number: int) -> None:
        if not worker.alive:
            return
        worker.holds.discard(number)
        if self.settled[number]:
            self.doubled += 1
        else:
            self.settled[number] = True
            self.left -= 1


def scans_of(manifests: Sequence[Path]) -> list[Scan]:
    """The cases of output folders, with what each cost."""
    found = []
    for path in manifests:
        for entry in json.loads(path.read_text())["cases"].values():
            seconds = entry["seconds_in"]
            written = [size_of(path.parent / name) for name in entry["files"]]
            found.append(
                Scan(
                    seconds["network"],
                    seconds["reading"],
                    seconds.get("writing", 0.0),
                    sum(file["bytes"] for file in entry["inputs"]),
                    sum(written),
                )
            )
    return found


def measured(folder: Path) -> list[Scan]:
    """Scans of seven sizes, inferred here by a random network. They are too smooth: a byte a voxel is counted
    for reading, as gzip leaves of a CT."""
    from memory import SPACING_MM, write_scan
    from random_unet import random_unet

    from medfuse import Predictor

    model = random_unet(
        folder / "unet.safetensors", levels=4, window=64, classes=5, spacing_mm=SPACING_MM, background=2.0
    )
    scans = folder / "scans"
    scans.mkdir()
    for side, slices in _SIZES:
        coarse = tuple(round(size / SPACING_MM) for size in (side, side, slices))
        write_scan(scans / f"ct_{side}_{slices}.nii.gz", (side, side, slices), coarse)
    predictor = Predictor.load(model, device="cpu")
    predictor.files([scans / "ct_128_60.nii.gz"], folder / "warm")
    outcome = predictor.files([scans], folder / "out")
    assert not outcome.failed, outcome.failed
    voxels = sorted(side * side * slices for side, slices in _SIZES)
    cases = sorted(scans_of([folder / "out" / "manifest.json"]))
    return [scan._replace(read_bytes=float(size)) for scan, size in zip(cases, voxels, strict=True)]


def cohort(real: Sequence[Scan], cases: int, seed: int) -> list[Scan]:
    """So many cases, each like a real one of a tenth more or less in size."""
    draws = random.Random(seed)
    found = []
    for _ in range(cases):
        scan, times = draws.choice(real), math.exp(draws.gauss(0.0, 0.1))
        found.append(Scan(*(value * times for value in scan)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--manifest", type=Path, nargs="+", default=[])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=256)
    parser.add_argument("--lost", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    from side_by_side import heading

    with tempfile.TemporaryDirectory() as name:
        real = scans_of(given.manifest) if given.manifest else measured(Path(name))
    scans = cohort(real, given.cases, given.seed)
    print(heading(rounds=1, threads=1) + "\n")
    mean = statistics.fmean(scan.network_s for scan in scans)
    print(
        f"{given.cases:,} cases drawn from {len(real)} real ones: network {mean:.1f} s in the mean, "
        f"{max(scan.network_s for scan in scans):.1f} at most; "
        f"{statistics.fmean(scan.read_bytes for scan in scans) / 2**20:.0f} MiB in, "
        f"{statistics.fmean(scan.written_bytes for scan in scans) / 2**20:.1f} out. "
        f"Seed {given.seed}.\n"
    )
    calm = World(given.workers, slower=0.0, lame=0.0, odd=0.0, slow_every_s=0.0, lost=0.0)
    all_of_it = World(given.workers, lost=given.lost)
    worlds = {
        "nothing happens": calm,
        "slower workers, odd cases": replace(all_of_it, lost=0.0, slow_every_s=0.0),
        "and a storage that is slow at times": replace(all_of_it, lost=0.0),
        f"and {given.lost:.0%} of the workers lost": all_of_it,
        "the same, lost cases left to the end": replace(all_of_it, looks_after_lost=False),
        "the same, 10 % lost": replace(all_of_it, lost=0.1),
        "all of it, 4 times the workers": replace(all_of_it, workers=4 * given.workers),
        "all of it, 16 times": replace(all_of_it, workers=16 * given.workers),
    }
    print("| what happens | wall, h | tail | busy, of all workers | of those that live | doubled |")
    print("|---|---|---|---|---|---|")
    for what, world in worlds.items():
        told = Fleet(scans, world, given.seed).run()
        busy = told.worked_s / (world.workers * told.wall_s)
        print(
            f"| {what} | {told.wall_s / 3600:.2f} | {told.tail_s / told.wall_s:.2%} | {busy:.1%} "
            f"| {told.worked_s / told.there_s:.1%} | {told.doubled} |"
        )
    print("\n" + limits(scans, all_of_it))


def limits(scans: Sequence[Scan], world: World) -> str:
    """On paper: how many workers until something else than they is the limit."""
    network = statistics.fmean(scan.network_s for scan in scans)
    moved = statistics.fmean(scan.read_bytes + scan.written_bytes for scan in scans)
    asked = 2 + 2 * math.log2(world.workers) + 12
    longest, total = max(scan.network_s for scan in scans), sum(scan.network_s for scan in scans)
    rows = [
        (f"{world.storage / 1e9:.0f} GB/s of storage", world.storage * network / moved),
        (f"10,000 operations a second of it, {asked:.0f} a case", 10_000 * network / asked),
        (f"heartbeats, {10_000 * BEAT_S / 4:,.0f} workers at 4 operations each", 10_000 * BEAT_S / 4),
        ("the longest case, which nobody shares", total / longest),
    ]
    lines = [f"- {what}: {workers:,.0f} workers" for what, workers in sorted(rows, key=lambda row: row[1])]
    return "What limits a fleet beyond, on paper:\n\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
