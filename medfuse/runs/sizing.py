"""Width, patch and batch of a network that keep a budget of memory, and one of time, as measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import TYPE_CHECKING

from medfuse.core.errors import MedfuseError
from medfuse.core.memory import bytes_text
from medfuse.core.text import by
from medfuse.data.plan import SMALLEST_BATCH, patch_reason, plan_batch, plan_patch

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
ROOMY = 0.6
"""A choice that takes less than this of its budgets, after a larger one was refused, was cut too far."""
UNLIMITED = 1e15  # voxels

Measure = Callable[[int, tuple[int, ...], int], "StepCost"]
"""(width, patch size, patches) → what a training step costs."""


@dataclass(frozen=True)
class Limits:
    """Bytes that a step may take, and seconds of the whole training, or None where it may take its time."""

    bytes: int
    seconds: float | None = None


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
        slope = max(0.0, (b[1] - a[1]) / max(b[0] - a[0], 1))
        slope = min(slope, b[1] / b[0]) or b[1] / b[0]
        return cls(max(0.0, b[1] - slope * b[0]), slope)

    def within(self, limit: float) -> float:
        """Voxels that cost `limit`."""
        return max(0.0, limit - self.fixed) / self.slope if self.slope else UNLIMITED

    def at(self, voxels: float) -> float:
        return self.fixed + self.slope * voxels


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
) -> Size:
    """The widest network whose patches fit the memory and whose ENOUGH_STEPS fit the time.

    `shape` is the median case's, in voxels of `spacing_mm`. Two small patches tell what others will cost; the
    choice is then measured itself, and made smaller until it keeps both budgets. Where that cut too far, as a
    pause of the machine made a choice look dear, a larger one is tried again.
    """
    sides, spacing = tuple(shape[:dims]), tuple(spacing_mm[:dims])
    per_step = limits.seconds and TRAINING_SHARE * limits.seconds / ENOUGH_STEPS
    told: list[str] = []
    for width in widths:
        memory, time = _foretell(width, sides, spacing, measure)
        fitting = plan_patch(sides, spacing, memory.within(limits.bytes) / SMALLEST_BATCH)
        context = SMALLEST_BATCH * min(prod(fitting), CONTEXT[dims])
        if per_step is None or time.at(context) <= per_step or width == widths[-1]:
            break
        told.append(f"{width} channels would see {_steps(limits, time.at(context)):,}")
        say(f"  {told[-1]} steps")
    voxels = memory.within(limits.bytes)
    by_time = False
    if per_step is not None and time.within(per_step) < voxels:
        voxels, by_time = max(time.within(per_step), SMALLEST_BATCH * PROBES[dims][0]), True
    kept, refused = None, 0
    for _ in range(ROUNDS):
        patch = plan_patch(sides, spacing, voxels / SMALLEST_BATCH)
        batch, batch_reason = plan_batch(patch, shape, cases, voxels)
        if kept and batch * prod(patch) in (kept[1] * prod(kept[0]), refused):
            break
        cost = measure(width, patch, batch)
        over = max(cost.bytes / limits.bytes, (per_step and by_time and cost.seconds / per_step / 1.25) or 0)
        say(
            f"  {width} channels, {batch} patches of {by(patch)}: {cost.seconds:.2f} s and "
            f"{bytes_text(cost.bytes)} a step"
        )
        size = batch * prod(patch)
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
    steps = _steps(limits, cost.seconds) if limits.seconds else None
    limit = f"what {ENOUGH_STEPS:,} steps in the time allow" if by_time else "the memory"
    return Size(
        width,
        patch,
        batch,
        cost,
        steps,
        _width_reason(width, widths, steps, told),
        patch_reason(patch, shape, limit),
        batch_reason,
    )


def _foretell(
    width: int, shape: tuple[int, ...], spacing: tuple[float, ...], measure: Measure
) -> tuple[_Line, _Line]:
    """Bytes and seconds by voxels of a step, from two small ones."""
    patches = [plan_patch(shape, spacing, voxels) for voxels in PROBES[len(shape)]]
    batches = (SMALLEST_BATCH, SMALLEST_BATCH if patches[0] != patches[1] else 2 * SMALLEST_BATCH)
    (a, first), (b, second) = [
        (batch * prod(patch), measure(width, patch, batch)) for patch, batch in zip(patches, batches)
    ]
    return (
        _Line.through((a, first.bytes), (b, second.bytes)),
        _Line.through((a, first.seconds), (b, second.seconds)),
    )


def _steps(limits: Limits, seconds: float) -> int:
    assert limits.seconds is not None
    return int(TRAINING_SHARE * limits.seconds / seconds)


def _width_reason(width: int, widths: Sequence[int], steps: int | None, told: Sequence[str]) -> str:
    if steps is None:
        return "nnU-Net's"
    if not told:
        return f"nnU-Net's; about {steps:,} steps fit the time"
    return f"about {steps:,} steps fit the time, of {ENOUGH_STEPS:,} that are wanted; {'; '.join(told)}"
