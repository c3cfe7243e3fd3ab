"""Width, patch and batch of a network that keep a budget of memory, and one of time, as measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod, sqrt
from statistics import median
from typing import TYPE_CHECKING, Literal

from medfuse.core.errors import MedfuseError
from medfuse.core.memory import bytes_text
from medfuse.core.text import by
from medfuse.data.plan import SMALLEST_BATCH, patch_reason, plan_batch, plan_patch
from medfuse.train.budget import FEWEST_STEPS

if TYPE_CHECKING:
    from medfuse.train.cost import StepCost

WIDTHS = (32, 24, 16, 12, 8)
"""Channels of the first stage, from nnU-Net's down."""
ENOUGH_STEPS = 2000
"""A wide network that sees 300 steps loses to a narrow one that sees 2,000."""
CONTEXT = {2: 128**2, 3: 64**3}
"""Voxels of a patch that are not given up for a wider network."""
PROBES = {2: (64**2, 128**2), 3: (32**3, 48**3)}
"""Voxels of the two patches from which the cost of others is foretold."""
TRAINING_SHARE = 0.9
"""Of the minutes; the rest is validation."""
ROUNDS = 6
"""Times that a choice is measured and changed."""
TURNS = 3
"""Times that a network is measured before it is too slow: a pause of the machine looks the same."""
MEASURING_SHARE = 0.2
"""Of the minutes that are planned for: as much may planning itself take."""
WIDTHS_SHARE = 0.6
"""Of the time for measuring that goes into widths; the rest is for the choice itself."""
ROOMY = 0.6
"""A choice that takes less than this of its budgets, after a larger one was refused, was cut too far."""
UNLIMITED = 1e15  # voxels

Measure = Callable[[int, tuple[int, ...], int], "StepCost"]
"""(width, patch size, patches) → what a training step costs."""


@dataclass(frozen=True)
class Limits:
    """Bytes that a step may take, and seconds of the whole training, or None where it may take its time.

    `measuring`: seconds that measuring may take; None where these do not matter.
    """

    bytes: int
    seconds: float | None = None
    measuring: float | None = None


@dataclass(frozen=True)
class Size:
    """The network and batch that were chosen, what a step of them costs, and why they were."""

    width: int
    patch_size: tuple[int, ...]
    batch_size: int
    cost: StepCost
    steps: int | None
    width_reason: str
    patch_reason: str
    batch_reason: str


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
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    cases: int,
    measure: Measure,
    limits: Limits,
    *,
    dims: int = 3,
    widths: Sequence[int] = WIDTHS,
    say: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
) -> Size:
    """The widest network whose patches fit the memory and whose ENOUGH_STEPS fit the time.

    `shape` is the median case's, in voxels of `spacing_mm`. Two small patches tell what others will cost,
    from the narrowest network up, until one is too slow; the choice is then measured itself, and made smaller
    until it keeps both budgets. Where that cut too far, a larger one is tried again.
    Pauses of the machine only ever make a step look dearer. So what is too slow is measured again, in turns,
    the fastest counts, and nothing costs more than what is at least as wide and as large (see _Book).
    """
    sides, spacing = tuple(shape[:dims]), tuple(spacing_mm[:dims])
    per_step = limits.seconds and TRAINING_SHARE * limits.seconds / ENOUGH_STEPS
    book = _Book(measure, limits.measuring, clock)
    probes = _probes(sides, spacing)

    def slow(width: int) -> bool:
        """Whether too few steps fit the time, with patches of which not much can be given up."""
        fitting = plan_patch(sides, spacing, book.memory(width, probes).within(limits.bytes) / SMALLEST_BATCH)
        context = SMALLEST_BATCH * min(prod(fitting), CONTEXT[dims])
        return per_step is not None and book.time(width, probes).at(context) > per_step

    width, wider = _widest(sorted(widths) if per_step else [max(widths)], probes, book, slow)
    if wider:
        say(f"  {wider} channels are too slow for the time")
    memory, foretold = book.memory(width, probes), book.time(width, probes)
    voxels = memory.within(limits.bytes)
    by_time = False
    if per_step is not None and foretold.within(per_step) < voxels:
        voxels, by_time = max(foretold.within(per_step), SMALLEST_BATCH * PROBES[dims][0]), True
    kept, refused = None, 0
    for _ in range(ROUNDS):
        patch = plan_patch(sides, spacing, voxels / SMALLEST_BATCH)
        batch, batch_reason = plan_batch(patch, shape, cases, voxels)
        size = batch * prod(patch)
        if kept and size in (kept[1] * prod(kept[0]), refused):
            break
        if not book.affords((width, patch, batch)):
            if not kept:
                cost = book.known(width, size) or _foretold(memory, foretold, size, book.unevenness())
                kept = patch, batch, batch_reason, cost
            break
        cost = book.ask(width, patch, batch)
        for _ in range(TURNS - 1):
            if not (per_step and by_time and cost.seconds > 1.25 * per_step):
                break
            if not book.affords((width, patch, batch)):
                break
            cost = book.ask(width, patch, batch)
        over = max(cost.bytes / limits.bytes, (per_step and by_time and cost.seconds / per_step / 1.25) or 0)
        say(
            f"  {width} channels, {batch} patches of {by(patch)}: {cost.seconds:.2f} s and "
            f"{bytes_text(cost.bytes)} a step"
        )
        smallest = batch == SMALLEST_BATCH and prod(patch) <= prod(plan_patch(sides, spacing, 1))
        if over <= 1:
            kept = patch, batch, batch_reason, cost
            if over >= ROOMY or not refused:
                break
        elif smallest or (cost.bytes <= limits.bytes and prod(patch) <= PROBES[dims][0]):
            break
        else:
            refused = size
        voxels = sqrt(kept[1] * prod(kept[0]) * refused) if kept else 0.95 * size / over
    patch, batch, batch_reason, cost = kept or (patch, batch, batch_reason, cost)
    if cost.bytes > limits.bytes:
        raise MedfuseError(
            f"--budget: a step of {width} channels on {batch} patches of {by(patch)} takes "
            f"{bytes_text(cost.bytes)}, more than {bytes_text(limits.bytes)}; give more"
        )
    steps = _steps(limits, cost.pace) if limits.seconds else None
    told = ""
    if wider and steps is not None:
        slower = max(book.time(wider, probes).at(batch * prod(patch)) / cost.seconds, 1.0)
        told = f"{wider} channels would see {int(steps / slower):,}"
        say(f"  {told} steps")
    limit = f"what {ENOUGH_STEPS:,} steps in the time allow" if by_time else "the memory"
    return Size(
        width,
        patch,
        batch,
        cost,
        steps,
        _width_reason(width, max(widths), steps, told),
        patch_reason(patch, shape, limit),
        batch_reason,
    )


def smallest_step(
    shape: Sequence[int], spacing_mm: Sequence[float], *, dims: int = 3
) -> tuple[int, tuple[int, ...], int]:
    """Width, patch and batch of the first step that is measured."""
    (patch, batch), _ = _probes(tuple(shape[:dims]), tuple(spacing_mm[:dims]))
    return min(WIDTHS), patch, batch


def more_minutes(size: Size, minutes: float) -> str:
    """Advice where the plan is hopeless, as so few steps fit the time; else empty."""
    if size.steps is None or size.steps >= FEWEST_STEPS:
        return ""
    fewest, enough = (
        ceil(wanted * size.cost.pace / TRAINING_SHARE / 60) for wanted in (FEWEST_STEPS, ENOUGH_STEPS)
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


def _probes(shape: tuple[int, ...], spacing: tuple[float, ...]) -> list[_Probe]:
    """Two small steps from which others are foretold."""
    small, large = (plan_patch(shape, spacing, voxels) for voxels in PROBES[len(shape)])
    return [(small, SMALLEST_BATCH), (large, SMALLEST_BATCH if small != large else 2 * SMALLEST_BATCH)]


class _Book:
    """What was measured, and what may still be: measuring has its own budget of seconds.

    A pause of the machine makes a step look dearer, never cheaper. So the cost of one is the least that was
    measured of it, or of any that is at least as wide with at least as many voxels: what is smaller in all
    ways never costs more, however noisy the machine is.
    """

    def __init__(self, measure: Measure, allowed: float | None, clock: Callable[[], float]) -> None:
        self._measure, self._clock = measure, clock
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
        return self._clock() - self._began + takes <= share * self._allowed

    def ask(self, width: int, patch: tuple[int, ...], batch: int) -> StepCost:
        """Measure it once more; what is known of it by then."""
        began = self._clock()
        new, key = self._measure(width, patch, batch), (width, batch * prod(patch))
        self._each = (self._clock() - began) / _effort(width, patch, batch)
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


def _effort(width: int, patch: tuple[int, ...], batch: int) -> float:
    return float(width**1.5 * batch * prod(patch))


def _foretold(memory: _Line, time: _Least, voxels: int, unevenness: float) -> StepCost:
    from medfuse.train.cost import StepCost

    seconds = time.at(voxels)
    return StepCost(seconds, int(memory.at(voxels)), unevenness * seconds)


def _steps(limits: Limits, seconds: float) -> int:
    assert limits.seconds is not None
    return int(TRAINING_SHARE * limits.seconds / seconds)


def _width_reason(width: int, widest: int, steps: int | None, told: str) -> str:
    if steps is None:
        return "nnU-Net's"
    if told:
        return f"about {steps:,} steps fit the time, of {ENOUGH_STEPS:,} that are wanted; {told}"
    if width == widest:
        return f"nnU-Net's; about {steps:,} steps fit the time"
    return (
        f"about {steps:,} steps fit the time; wider networks were not tried, as planning takes no more than "
        "a fifth of it"
        if steps >= ENOUGH_STEPS
        else f"about {steps:,} steps fit the time, of {ENOUGH_STEPS:,} that are wanted"
    )
