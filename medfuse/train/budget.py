"""How much training there is, and how much of it is done."""

from dataclasses import dataclass

from medfuse.train.settings import TrainSettings

FEWEST_STEPS = 200
"""With fewer no network learns anything from scratch; some thousands are usual."""


@dataclass(frozen=True)
class Budget:
    """Either `steps` or `seconds` is the limit; the other is None."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, settings: TrainSettings) -> "Budget":
        if settings.minutes is not None:
            return cls(seconds=60 * settings.minutes)
        if settings.steps is not None:
            return cls(steps=settings.steps)
        assert settings.epochs is not None, "validated: one budget is given"
        return cls(steps=settings.epochs * settings.steps_per_epoch)

    def progress(self, steps: int, seconds: float) -> float:
        """0 at the start, 1 when the budget is spent."""
        if self.steps is not None:
            return min(1.0, steps / self.steps)
        assert self.seconds is not None
        return min(1.0, seconds / self.seconds)

    def is_spent(self, steps: int, seconds: float) -> bool:
        return self.progress(steps, seconds) >= 1

    def __str__(self) -> str:
        """`400 steps`, `2.5 minutes`."""
        if self.steps is not None:
            return f"{self.steps:,} steps"
        assert self.seconds is not None
        return f"{self.seconds / 60:.6g} minutes"

    def schedule_step(self, progress: float) -> tuple[int, int]:
        """(step, total steps) for an auxiliary schedule; a budget in time counts in thousandths."""
        total = self.steps or 1000
        return min(total - 1, round(progress * total)), total


def too_few(steps: float) -> str:
    """A warning where so many steps cannot teach a network anything; else empty."""
    if steps >= FEWEST_STEPS:
        return ""
    return (
        f"warning: {round(steps)} training steps are too few to learn much, some thousands are usual from "
        "scratch, some hundreds on frozen maps: give it a larger budget (train.minutes, steps or epochs), or "
        "make a step cheaper by a smaller sample.patch_size, sample.batch_size or network"
    )
