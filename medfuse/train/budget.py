"""How much training there is, and how much of it is done."""

from dataclasses import dataclass

from medfuse.train.settings import TrainSettings


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

    def schedule_step(self, progress: float) -> tuple[int, int]:
        """(step, total steps) for an auxiliary schedule; a budget in time counts in thousandths."""
        total = self.steps or 1000
        return min(total - 1, round(progress * total)), total
