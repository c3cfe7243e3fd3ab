"""From facts about a dataset to candidates, and to the one that trials choose, in a share of the minutes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.api import Split
from medfuse.core.errors import MedfuseError
from medfuse.core.errors import reason as why
from medfuse.core.files import claimed, remove_leftovers
from medfuse.planning.bed import Bed
from medfuse.planning.bench import Bench, Dimensions
from medfuse.planning.candidates import MILD, Candidate, dimensions, grids
from medfuse.planning.sizing import BATCH, CUT, Grid, Limits, Size, size_network, usual_step
from medfuse.planning.trials import MOST_JUDGING, Trials, affordable, beside

if TYPE_CHECKING:
    import torch

    from medfuse.api import DatasetInfo
    from medfuse.core.reporter import Reporter
    from medfuse.data.fingerprint import Fingerprint
    from medfuse.data.plan import DataPlan

PLANNING_SHARE = 0.15
"""Of the minutes: as much may planning take, all in all."""
MEASURING_SHARE = 0.06
"""Of the minutes, into measuring steps; trials have the rest."""
TIMED_SHARE = 0.1
"""Of the minutes, by how much more planning may take where a scan's time is limited, as more is tried."""
MINUTES_FOR_MORE = 15
"""From which on more than two kinds of networks are thought of."""
PREPARING_SHARE = 0.25
"""Of the time for trials, into preparing cases."""
CLEARLY_COARSER = 1.5
"""From this factor on a grid is also tried as fine as the data's."""
FOLDER = "medfuse-trials-"
"""How the name of a folder begins in which candidates are trained."""


@dataclass(frozen=True)
class Clock:
    """What planning may take of `minutes`, if there is such a limit; `began` is a time of time.monotonic.

    `more`: by how much its share is larger than usual.
    """

    minutes: float | None
    began: float
    more: float = 0.0

    @property
    def share(self) -> float:
        """Of the minutes, which planning may take."""
        return PLANNING_SHARE + self.more

    def spent(self) -> float:
        return time.monotonic() - self.began

    def for_looking(self) -> float | None:
        """Seconds for reading cases; what was spent does not count, so that the same cases are read."""
        return None if self.minutes is None else PLANNING_SHARE * 60 * self.minutes / 2

    def left(self) -> float | None:
        """Seconds that planning may still take."""
        return None if self.minutes is None else self.share * 60 * self.minutes - self.spent()

    def hurried(self) -> bool:
        """Whether no more is left than trials should have."""
        left = self.left()
        return left is not None and left < (self.share - MEASURING_SHARE) * 30 * (self.minutes or 0.0)


@dataclass(frozen=True)
class Planner:
    """What is known of a dataset and a machine. wanted: axes that the user asked for. count: of plans."""

    fingerprint: Fingerprint
    plan: DataPlan
    device: torch.device
    memory: int
    clock: Clock
    reporter: Reporter
    wanted: Dimensions | None = None
    scaling: tuple[list[float], str] = (list(MILD), "")
    count: int = 1

    def candidates(self) -> list[Candidate]:
        """The likeliest first; each sized by measured steps.

        Where the first sees all that there is to see, there are no others. Where it has a grid that
        is clearly coarser than the data's, a last one keeps theirs.
        """
        options = self._options()
        found: list[Candidate] = []
        faults: list[str] = []
        for number, (dims, reason) in enumerate(options):
            self.reporter.say(f"  {dims}-D: {reason}")
            bench = Bench(self.plan, dims, self.device, self.reporter)
            bench.precision = found[0].bench.precision if found else self._precision(bench)
            some = grids(self.fingerprint, self.plan, bench.dims) if self.clock.minutes else (self.finest,)
            try:
                found.append(self._sized(bench, reason, some, len(options) - number))
            except MedfuseError as error:  # no step of it fits the memory, or a slice is too small
                faults += error.lines
            if found and self.count == 1 and self._sees_all(found[0]):
                break
        if not found:
            raise MedfuseError(*dict.fromkeys(faults))
        for fault in faults:
            self.reporter.say(f"  left out: {fault}")
        first = found[0]
        if first.size.grid.times_coarser(self.finest) >= CLEARLY_COARSER:
            reason = f"{first.reason}; voxels as small as the data's, in smaller patches"
            bench = Bench(self.plan, first.dimensions, self.device, self.reporter)
            bench.precision = first.bench.precision
            try:
                found.append(self._sized(bench, reason, (self.finest,), 1))
            except MedfuseError as error:
                self.reporter.say(f"  left out: {error.lines[0]}")
        return found

    def _sees_all(self, candidate: Candidate) -> bool:
        """Whether it is a network of three axes that is shown whole cases on the data's own grid."""
        size = candidate.size
        whole = all(p >= n for p, n in zip(size.patch_size, size.grid.shape))
        return candidate.dimensions == "3" and size.grid == self.finest and whole

    def _sized(self, bench: Bench, reason: str, some: Sequence[Grid], count: int) -> Candidate:
        """One kind of network on one of some grids; `count`: how many share the time for measuring.

        Where the memory would cost it channels, resolution or voxels, maps are computed again, and where that
        is not enough a step takes one patch after the other, before it gives them up.
        """
        found: list[tuple[Bench, Size]] = []
        faults: list[MedfuseError] = []
        for way in (bench, bench.saving(accumulates=False), bench.saving(accumulates=True)):
            if way.checkpointing:
                if self.clock.minutes and self._measuring(count) <= 0:
                    break  # there is no time to find out
                again = "one patch after the other, too" if way.accumulates else "maps computed again"
                self.reporter.say(f"  short of memory: with {again}")
            try:
                found.append((way, self._size(way, some, count)))
            except MedfuseError as error:  # no step fits
                faults.append(error)
                continue
            if not found[-1][1].short_of_memory:
                break
        if not found:
            raise faults[-1]
        way, size = max(found, key=lambda one: _worth(one[1], some))  # the first of several
        return Candidate(bench.dimensions, reason, self._on(way, some, size), size, self.scaling)

    def _size(self, bench: Bench, some: Sequence[Grid], count: int) -> Size:
        minutes = self.clock.minutes
        share = None if minutes is None else self._measuring(count)
        return size_network(
            some,
            len(self.fingerprint.cases),
            bench.measure,
            Limits(self.memory, 60 * minutes if minutes else None, share),
            dims=bench.dims,
            say=self.reporter.say,
        )

    def _options(self) -> Sequence[tuple[Dimensions, str]]:
        grid = self.finest
        options = dimensions(grid)
        if self.wanted and self.wanted in dict(options):
            return [(self.wanted, "as was asked for")]
        if self.wanted or len(options) == 1:
            return options[:1]
        if self.clock.minutes is None:
            return [("3", "as nnU-Net's")]
        few = [option for option in options if option[0] != "2.5"]
        return options if self.clock.minutes >= MINUTES_FOR_MORE or self.count > len(few) else few

    @property
    def finest(self) -> Grid:
        """The median case on the planned spacing."""
        from medfuse.data.plan import median_shape

        return Grid(self.plan.spacing_mm, median_shape(self.fingerprint, self.plan.spacing_mm))

    def _precision(self, bench: Bench) -> str:
        """What all are measured in; finding out takes time."""
        bench.load()
        left = self.clock.left()
        if left is None or left > PLANNING_SHARE * 60 * (self.clock.minutes or 0) / 2:
            bench.choose(*usual_step(self.finest, bench.dims))
        else:
            self.reporter.say("  measuring in fp32, as there is no time to try bf16")
        return bench.precision

    def _measuring(self, count: int) -> float:
        """Seconds for measuring one of `count` kinds that are left."""
        assert self.clock.minutes is not None
        left = self.clock.left() or 0.0
        trials = (self.clock.share - MEASURING_SHARE) * 60 * self.clock.minutes
        return max(0.0, left - trials) / count

    def _on(self, bench: Bench, some: Sequence[Grid], size: Size) -> Bench:
        """The bench on the grid that was chosen, with the reason for that."""
        reason = self.plan.reasons["spacing_mm"]
        if size.grid != some[0]:
            whole = "a case" if bench.dims == 3 else "a slice"
            reason += f"; coarser, so that a patch shows the whole of {whole} in the time"
        return bench.on(size.grid.spacing_mm, reason)

    def tried(
        self,
        candidates: Sequence[Candidate],
        texts: Sequence[str],
        info: DatasetInfo,
        split: Split,
        base: Path,
        *,
        compared: int = 0,
        most_judging: int = MOST_JUDGING,
    ) -> Trials:
        """Train the candidates for what is left of the time for planning, and choose.

        The last `compared` ones are tried beside the others, and are not chosen.
        """
        left = self.clock.left()
        if left is None or len(candidates) < 2 or left <= 0 or not split.train:
            return Trials()
        judging = [candidate.judging() for candidate in candidates]
        count, cases = affordable(judging, left, most_judging)
        if count < 2:
            self.reporter.say("  judging a case takes too long to try anything in the time")
            return Trials()
        self.reporter.say(f"trying {count} candidates for {left:.0f} seconds")
        try:
            with _folder() as folder:
                bed = Bed(
                    info,
                    self.fingerprint,
                    Split(split.train, split.validation[:cases]),
                    self.plan,
                    texts[:count],
                    base,
                    candidates[0].bench.precision,
                    self.device.type,
                    folder,
                )
                if bed.prepare(PREPARING_SHARE * left):
                    others = max(0, compared - (len(candidates) - count))
                    seconds = self.clock.left() or 0.0
                    return beside(count, seconds, bed.train, self.reporter.say, compared=others)
                self.reporter.say("  too few cases can be prepared in the time to tell anything")
        except (MedfuseError, OSError) as error:  # such as a disk that has no room for prepared cases
            self.reporter.say(f"  nothing can be tried: {why(error)}")
        return Trials()


def _worth(size: Size, grids: Sequence[Grid]) -> tuple[int, int, int]:
    """Sizes in order: by resolution, channels, and voxels of a step up to what is context enough."""
    dims = len(size.patch_size)
    enough = BATCH[dims] * prod(size.grid.patch(dims, CUT[dims]))
    return -grids.index(size.grid), size.width, min(enough, size.batch_size * prod(size.patch_size))


@contextmanager
def _folder() -> Iterator[Path]:
    """One for prepared cases, which goes away; so do those of processes that were killed."""
    made = tempfile.TemporaryDirectory(prefix=FOLDER, ignore_cleanup_errors=True)
    with made as folder, claimed(Path(folder)):
        remove_leftovers(Path(folder).parent, FOLDER)
        yield Path(folder)


def table(candidates: Sequence[Candidate], trials: Trials) -> list[str]:
    """What was tried, in lines of a comment; nothing where nothing was."""
    if not trials.rungs:
        return []
    judged = "Dice of training cases that were kept apart for it"
    lines = [f"Tried for {trials.seconds:.0f} seconds ({judged}):"]
    for number, candidate in enumerate(candidates):
        rungs = [rung for rung in trials.rungs if rung.candidate == number]
        said = ", ".join(f"{rung.dice:.3f} after {rung.steps} steps" for rung in rungs) or "not tried"
        mark = "→" if number == trials.chosen else " "
        lines.append(f"{mark} {candidate}: {said}")
    return lines
