"""Width, patch and batch of a network that keep a budget of memory, and one of time, as measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from statistics import median
from typing import TYPE_CHECKING, Literal

from medfuse.core.errors import MedfuseError
from medfuse.core.memory import bytes_text
from medfuse.core.text import by, duration
from medfuse.core.topology import SMALLEST
from medfuse.data.plan import SMALLEST_BATCH, patch_reason, plan_batch, plan_patch
from medfuse.train.budget import FEWEST_STEPS

if TYPE_CHECKING:
    from medfuse.train.cost import StepCost

WIDTHS = (32, 24, 16, 12, 8)
"""Channels of the first stage, from nnU-Net's down."""
ENOUGH_STEPS = 2000
"""A wider network that sees a few hundred loses to a narrow one that sees these."""
BATCH = {2: 4, 3: 2}
"""Patches a step to begin with: slices are less varied than volumes, and a step of them costs less."""
PROBES = {2: (64**2, 192**2), 3: (32**3, 48**3)}
"""Voxels of the two patches from which the cost of others is foretold."""
CUT = {2: 512**2, 3: 112**3}
"""Voxels of a patch that are context enough, however large the case is."""
SLACK = 1.25
"""What a measured step may take of the time that it was given."""
TRAINING_SHARE = 0.9
"""Of the minutes; the rest is validation."""
ROUNDS = 6
"""Times that a cut patch is measured and changed."""
TURNS = 3
"""Times that a network is measured before it is too slow: a pause of the machine looks the same."""
CHOICE_SHARE = 0.02
"""Of the training, for measuring choices: what small patches foretell is too good for large ones."""
STEPS_MEASURED = 8
"""Whose time measuring a step takes, with all that is around them."""
WIDTHS_SHARE = 0.6
"""Of the time for measuring that goes into widths; the rest is for the choice itself."""
UNLIMITED = 1e15  # voxels

Measure = Callable[[int, tuple[int, ...], int], "StepCost"]
"""(width, patch size, patches) → what a training step costs."""


@dataclass(frozen=True)
class Limits:
    """Bytes that a step may take, and seconds of the whole training, or None where it may take its time.

    `measuring`: seconds that measuring may take; None where these do not matter. A choice itself is measured
    beyond these, for CHOICE_SHARE of the training at most.
    """

    bytes: int
    seconds: float | None = None
    measuring: float | None = None


@dataclass(frozen=True)
class Grid:
    """A spacing in mm, and the median case's shape in its voxels, both (x, y, z)."""

    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]

    def times_coarser(self, other: Grid) -> float:
        """How much longer its voxels are than another grid's, along the axis where that is most."""
        return max(own / its for own, its in zip(self.spacing_mm, other.spacing_mm))

    def patch(self, dims: int, most_voxels: float) -> tuple[int, ...]:
        """What covers the case, or the slice, cut until within `most_voxels`."""
        return plan_patch(self.shape[:dims], self.spacing_mm[:dims], most_voxels)


@dataclass(frozen=True)
class Size:
    """The network, grid and batch that were chosen, what a step of them costs, and why they were.

    `short_of_memory`: whether a step that took less would have let it be wider, finer or of more voxels.
    """

    width: int
    grid: Grid
    patch_size: tuple[int, ...]
    batch_size: int
    cost: StepCost
    steps: int | None
    width_reason: str
    patch_reason: str
    batch_reason: str
    short_of_memory: bool = False


@dataclass(frozen=True)
class _Line:
    """cost = fixed + slope · voxels, through two points; neither is below 0."""

    fixed: float
    slope: float

    @classmethod
    def through(cls, a: tuple[int, float], b: tuple[int, float]) -> _Line:
        """At least half of b's cost is taken to grow with voxels, or a pause at a would hide that it does."""
        proportional = b[1] / b[0]
        slope = (b[1] - a[1]) / max(b[0] - a[0], 1)
        slope = min(max(slope, proportional / 2), proportional)
        return cls(max(0.0, b[1] - slope * b[0]), slope)

    def within(self, limit: float) -> float:
        """Voxels that cost `limit`."""
        return max(0.0, limit - self.fixed) / self.slope if self.slope else UNLIMITED

    def at(self, voxels: float) -> float:
        return self.fixed + self.slope * voxels


@dataclass(frozen=True)
class _Least:
    """The least of several lines: a network's own, and those of wider ones, none of which it can exceed."""

    lines: tuple[_Line, ...]

    def within(self, limit: float) -> float:
        return max(line.within(limit) for line in self.lines)

    def at(self, voxels: float) -> float:
        return min(line.at(voxels) for line in self.lines)


def size_network(
    grids: Sequence[Grid],
    cases: int,
    measure: Measure,
    limits: Limits,
    *,
    dims: int = 3,
    widths: Sequence[int] = WIDTHS,
    most_voxels: float | None = None,
    say: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
) -> Size:
    """The finest grid and the widest network on it with which training has ENOUGH_STEPS in the time.

    A patch covers the case, or the slice; `grids` come from the finest to the coarsest that will do. Context
    is given up last: first channels, then patches a step, then resolution, and only then is the patch cut.
    Without a limit of time it is the widest network on the finest grid, and the memory alone cuts.
    Two small patches tell what others will cost, from the narrowest network up, until one is too slow; the
    choice is then measured itself, and the next one taken where it keeps not both budgets.
    `most_voxels`: of a patch, where something else cuts it.
    Pauses of the machine only ever make a step look dearer. So what is too slow is measured again, in turns,
    the fastest counts, and nothing costs more than what is at least as wide and as large (see _Book).
    """
    least, most = BATCH[dims], float(min(CUT[dims], most_voxels or CUT[dims]))
    per_patch = limits.seconds and TRAINING_SHARE * limits.seconds / (ENOUGH_STEPS * least)
    book = _Book(measure, limits.measuring, clock)
    probes = _probes(grids[0], dims)

    def slow(width: int) -> bool:
        """Whether too few patches fit the time even on the coarsest grid."""
        if per_patch is None:
            return False
        memory = book.memory(width, probes).within(limits.bytes)
        context = prod(grids[-1].patch(dims, min(most, memory / SMALLEST_BATCH)))
        return book.time(width, probes).at(least * context) > least * per_patch

    widest, wider = _widest(sorted(widths) if per_patch else [max(widths)], probes, book, slow)
    if wider:
        say(f"  {wider} channels are too slow for the time")
    known = [width for width in sorted(widths, reverse=True) if width <= widest and book.knows(width)]
    fewer = [(known[-1], SMALLEST_BATCH)] if per_patch and least > SMALLEST_BATCH else []
    ladder = [(grid, *step) for grid in grids for step in [*((width, least) for width in known), *fewer]]
    search = _Search(book, probes, limits, per_patch, dims, cases, say, most_voxels or UNLIMITED)
    chosen = next(filter(None, (search.whole(*step) for step in ladder)), None)
    grid, width, patch, batch, cost = chosen or search.cut(*ladder[-1])
    if cost.bytes > limits.bytes:
        takes = f"{bytes_text(cost.bytes)}, more than {bytes_text(limits.bytes)}"
        raise MedfuseError(
            f"--budget: a step of {width} channels on {batch} patches of {by(patch)} takes {takes}; give "
            f"{_roomy(cost.bytes)} or more"
        )
    steps = _steps(limits, cost.pace) if limits.seconds else None
    limit = "what the time allows" if chosen is None and per_patch else "the memory"
    return Size(
        width,
        grid,
        patch,
        batch,
        cost,
        steps,
        _width_reason(width, widths, steps, search.wider(width, patch, batch, cost)),
        patch_reason(patch, grid.shape, limit),
        _batch_reason(batch, dims, cases),
        search.short_of_memory,
    )


@dataclass
class _Search:
    """Measures one choice after the other until one keeps both budgets."""

    book: _Book
    probes: Sequence[_Probe]
    limits: Limits
    per_patch: float | None
    dims: int
    cases: int
    say: Callable[[str], None]
    most: float  # voxels of a patch
    beyond: float = 0.0  # seconds that measuring choices has taken
    short_of_memory: bool = False

    def whole(self, grid: Grid, width: int, patches: int) -> _Choice | None:
        """The patch that covers the case, or has context enough, where `patches` of it keep the budgets."""
        memory = self._memory(width)
        patch = grid.patch(self.dims, min(CUT[self.dims], self.most))
        if self.per_patch is None:
            enough, room = prod(patch), max(memory / SMALLEST_BATCH, (2 * SMALLEST) ** self.dims)
            patch = grid.patch(self.dims, min(room, self.most))
            self.short_of_memory |= prod(patch) < enough
        batch = self._batch(patch, memory, patches)
        if batch < patches:
            self._fits(self._foretold(width, patches * prod(patch)), patches)
        if not self._fits(self._foretold(width, batch * prod(patch)), batch):
            return None
        cost = self._ask(width, patch, batch)
        if not self._fits(cost, batch):
            return None
        more = self._more(grid, width, patch, batch, cost)
        if more > batch and self._fits(larger := self._ask(width, patch, more), more):
            return grid, width, patch, more, larger
        return grid, width, patch, batch, cost

    def cut(self, grid: Grid, width: int, patches: int) -> _Choice:
        """The largest patch that keeps the budgets; where none does, the smallest that is tried."""
        smallest = max(PROBES[self.dims][0], prod(grid.patch(self.dims, 1)))
        batch = self._batch(grid.patch(self.dims, smallest), self._memory(width), patches)
        memory, in_time = self._memory(width), UNLIMITED
        if per_step := self._per_step(batch):
            in_time = self.book.time(width, self.probes).within(per_step)
        enough = batch * prod(grid.patch(self.dims, min(CUT[self.dims], self.most)))
        self.short_of_memory |= memory < min(in_time, enough)
        voxels = min(memory, in_time)
        for _ in range(ROUNDS):
            patch = grid.patch(self.dims, min(max(voxels / batch, smallest), self.most))
            cost = self._ask(width, patch, batch)
            if self._fits(cost, batch) or prod(patch) <= smallest:
                break
            voxels = 0.95 * batch * prod(patch) / self._over(cost, batch)
        return grid, width, patch, batch, cost

    def wider(
        self, width: int, patch: tuple[int, ...], batch: int, cost: StepCost
    ) -> tuple[int, float] | None:
        """The next wider network that was measured, and how many times longer a step of it would take."""
        known = [w for w in WIDTHS if w > width and self.book.knows(w)]
        if not known:
            return None
        seconds = self.book.time(min(known), self.probes).at(batch * prod(patch))
        return min(known), max(1.0, seconds / cost.seconds)

    def _memory(self, width: int) -> float:
        """Voxels of a step that fit the memory."""
        return self.book.memory(width, self.probes).within(self.limits.bytes)

    def _batch(self, patch: tuple[int, ...], memory: float, patches: int) -> int:
        """`patches` a step to begin with; fewer where the memory has no room for them."""
        return max(SMALLEST_BATCH, min(patches, int(memory / prod(patch))))

    def _per_step(self, batch: int) -> float:
        """Seconds of a step, so that there are enough of them; 0 where it may take its time."""
        return max(batch, BATCH[self.dims]) * (self.per_patch or 0.0)

    def _ask(self, width: int, patch: tuple[int, ...], batch: int) -> StepCost:
        """What a step costs: measured, in turns while it looks too slow, or foretold where time is short."""
        size = batch * prod(patch)
        for turn in range(TURNS):
            expected = STEPS_MEASURED * self._foretold(width, size).pace
            beyond = not turn and expected + self.beyond <= CHOICE_SHARE * (self.limits.seconds or 0.0)
            if not beyond and not self.book.affords((width, patch, batch)):
                break
            began = self.book.clock()
            cost = self.book.ask(width, patch, batch)
            self.beyond += self.book.clock() - began
            if not turn:
                takes = f"{duration(cost.seconds)} and {bytes_text(cost.bytes)}"
                self.say(f"  {width} channels, {batch} patches of {by(patch)}: {takes} a step")
            if self._over(cost, batch) <= 1 or cost.bytes > self.limits.bytes:
                break
        return self.book.known(width, size) or self._foretold(width, size)

    def _foretold(self, width: int, voxels: int) -> StepCost:
        return _foretold(
            self.book.memory(width, self.probes),
            self.book.time(width, self.probes),
            voxels,
            self.book.unevenness(),
        )

    def _fits(self, cost: StepCost, batch: int) -> bool:
        self.short_of_memory |= cost.bytes > self.limits.bytes and not self._late(cost, batch) > 1
        return self._over(cost, batch) <= 1

    def _over(self, cost: StepCost, batch: int) -> float:
        """How far a step is beyond its budgets: 1 where it just keeps both."""
        return max(cost.bytes / self.limits.bytes, self._late(cost, batch))

    def _late(self, cost: StepCost, batch: int) -> float:
        per_step = self._per_step(batch)
        return cost.seconds / (SLACK * per_step) if per_step else 0.0

    def _more(self, grid: Grid, width: int, patch: tuple[int, ...], batch: int, cost: StepCost) -> int:
        """As many patches a step as leave ENOUGH_STEPS, and the memory and the dataset allow."""
        voxels = self._memory(width)
        if self.limits.seconds:
            per_step = TRAINING_SHARE * self.limits.seconds / ENOUGH_STEPS
            voxels = min(voxels, batch * prod(patch) * per_step / cost.seconds)
        return plan_batch(patch, grid.shape, self.cases, voxels)[0]


def usual_step(grid: Grid, dims: int) -> tuple[int, tuple[int, ...], int]:
    """Width, patch and batch of a step by which a precision is chosen; a small one would tell little."""
    _, (patch, batch) = _probes(grid, dims)
    return int(median(WIDTHS)), patch, batch


def more_minutes(size: Size, minutes: float, planning: float = 0.0) -> str:
    """Advice where the plan is hopeless, as so few steps fit the time; else empty.

    planning: the share of the minutes that planning may take.
    """
    if size.steps is None or size.steps >= FEWEST_STEPS:
        return ""
    fewest, enough = (
        ceil(wanted * size.cost.pace / TRAINING_SHARE / (1 - planning) / 60)
        for wanted in (FEWEST_STEPS, ENOUGH_STEPS)
    )
    return (
        f"warning: about {size.steps:,} steps fit {minutes:g} minutes, and with fewer than {FEWEST_STEPS} no "
        f"network learns anything from scratch: give --minutes {fewest} at the very least, "
        f"{enough} for {ENOUGH_STEPS:,} steps"
    )


def _widest(
    widths: Sequence[int], probes: Sequence[_Probe], book: _Book, slow: Callable[[int], bool]
) -> tuple[int, int | None]:
    """The widest network that is not too slow, the narrowest if all are, and the one that was too slow.

    None where no other was, or where measuring it would have taken too long.
    """
    chosen: int | None = None
    for width in widths:
        for _ in range(TURNS):
            steps = [(width, *probe) for probe in probes]
            if not book.affords(*steps, share=WIDTHS_SHARE):
                steps = [] if chosen or book.knows(width) else steps[:1]  # of the narrowest, the least
            for step in steps:
                book.ask(*step)
            if len(steps) == 1 and book.affords((width, *probes[1]), share=WIDTHS_SHARE):
                book.ask(width, *probes[1])
            if not steps or not slow(width):
                break
        if not book.knows(width):
            return chosen or width, None
        if slow(width):
            return (width, None) if chosen is None else (chosen, width)
        chosen = width
    assert chosen is not None
    return chosen, None


_Probe = tuple[tuple[int, ...], int]
"""Patch and batch."""
_Choice = tuple[Grid, int, tuple[int, ...], int, "StepCost"]
"""Grid, width, patch, batch, and what a step costs."""


def _probes(grid: Grid, dims: int) -> list[_Probe]:
    """Two small steps from which others are foretold."""
    small, large = (grid.patch(dims, voxels) for voxels in PROBES[dims])
    return [(small, SMALLEST_BATCH), (large, SMALLEST_BATCH if small != large else 2 * SMALLEST_BATCH)]


class _Book:
    """What was measured, and what may still be: measuring has its own budget of seconds.

    A pause of the machine makes a step look dearer, never cheaper. So the cost of one is the least that was
    measured of it, or of any that is at least as wide with at least as many voxels: what is smaller in all
    ways never costs more, however noisy the machine is.
    """

    def __init__(self, measure: Measure, allowed: float | None, clock: Callable[[], float]) -> None:
        self._measure, self.clock = measure, clock
        self._began, self._allowed = clock(), allowed
        self._costs: dict[tuple[int, int], StepCost] = {}  # by width and voxels
        self._each = 0.0  # seconds that the last measuring took, by its effort

    def knows(self, width: int) -> bool:
        return any(w == width for w, _ in self._costs)

    def affords(self, *steps: tuple[int, tuple[int, ...], int], share: float = 1.0) -> bool:
        """Whether a share of the time allows to measure (width, patch, batch) of each of `steps`.

        It goes by how long the last measuring took, and is always true of the very first step.
        """
        if self._allowed is None:
            return True
        if not self._costs:
            return len(steps) == 1
        takes = self._each * sum(_effort(*step) for step in steps)
        return self.clock() - self._began + takes <= share * self._allowed

    def ask(self, width: int, patch: tuple[int, ...], batch: int) -> StepCost:
        """Measure it once more; what is known of it by then."""
        began = self.clock()
        new, key = self._measure(width, patch, batch), (width, batch * prod(patch))
        self._each = (self.clock() - began) / _effort(width, patch, batch)
        old = self._costs.get(key)
        if old is not None:
            new = replace(new, seconds=min(old.seconds, new.seconds), pace=min(old.pace, new.pace))
        self._costs[key] = new
        return replace(new, seconds=self._least(*key, "seconds"), pace=self._least(*key, "pace"))

    def known(self, width: int, voxels: int) -> StepCost | None:
        """The cost of a step that was measured before."""
        return self._costs.get((width, voxels))

    def unevenness(self) -> float:
        """How much slower than the fastest a usual step is on this machine, now."""
        return median(cost.pace / cost.seconds for cost in self._costs.values())

    def _least(self, width: int, voxels: int, what: Literal["seconds", "pace"]) -> float:
        return min(getattr(c, what) for (w, v), c in self._costs.items() if w >= width and v >= voxels)

    def time(self, width: int, probes: Sequence[_Probe]) -> _Least:
        return _Least(tuple(self._line(w, probes) for w in {w for w, _ in self._costs} if w >= width))

    def memory(self, width: int, probes: Sequence[_Probe]) -> _Line:
        a, b = (batch * prod(patch) for patch, batch in probes)
        first, second = self._costs[width, a], self._costs.get((width, b))
        return _Line.through((a, first.bytes), (b, second.bytes)) if second else _Line(0, first.bytes / a)

    def _line(self, width: int, probes: Sequence[_Probe]) -> _Line:
        """Through the probes that were measured; the second may have been too dear."""
        a, b = (batch * prod(patch) for patch, batch in probes)
        first = self._least(width, a, "seconds")
        if (width, b) not in self._costs:
            return _Line(0, first / a)
        return _Line.through((a, first), (b, self._least(width, b, "seconds")))


def _roomy(size: float) -> str:
    """So many bytes as an option takes them, and a tenth more, as memory is measured with some noise."""
    return f"{ceil(1.1 * size / 2**20)}MiB"


def _effort(width: int, patch: tuple[int, ...], batch: int) -> float:
    return float(width**1.5 * batch * prod(patch))


def _foretold(memory: _Line, time: _Least, voxels: int, unevenness: float) -> StepCost:
    from medfuse.train.cost import StepCost

    seconds = time.at(voxels)
    return StepCost(seconds, int(memory.at(voxels)), unevenness * seconds)


def _steps(limits: Limits, seconds: float) -> int:
    assert limits.seconds is not None
    return int(TRAINING_SHARE * limits.seconds / seconds)


def _width_reason(
    width: int, widths: Sequence[int], steps: int | None, wider: tuple[int, float] | None
) -> str:
    if steps is None or width == max(widths):
        return "nnU-Net's"
    enough = steps >= ENOUGH_STEPS / SLACK
    reason = f"the widest that sees about {ENOUGH_STEPS:,} steps in the time" if enough else "the narrowest"
    return f"{reason}; {wider[0]} channels would see {int(steps / wider[1]):,}" if wider else reason


def _batch_reason(batch: int, dims: int, cases: int) -> str:
    if batch < BATCH[dims]:
        return "as the memory or the time allows"
    if batch == BATCH[dims]:
        return "slices are less varied than volumes" if dims == 2 else "the fewest"
    return f"as many as leave {ENOUGH_STEPS:,} steps, and no more than 5 % of all voxels of {cases} cases"
