"""Whether a training step fits the memory of its device, and what is done about it before it begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from medfuse.core.memory import bytes_text, free_memory, total_memory
from medfuse.train.settings import TrainSettings

if TYPE_CHECKING:
    import torch

    from medfuse.model.held import Held

SHARE = 0.9
"""Of the memory that is free, which a step may take by the estimate."""
STATES = {"sgd": 1, "adamw": 2}
"""Of each weight, which an optimiser keeps."""


def step_bytes(held: Held, settings: TrainSettings, *, half: bool) -> int:
    """Bytes of a step, about, with what the settings do about them; what is left to `auto` does nothing."""
    return held.step(
        checkpointing=settings.checkpointing is True,
        parts=1 if settings.accumulate == "auto" else settings.accumulate,
        half=half,
        states=STATES[settings.optimizer],
    )


def fitted(
    settings: TrainSettings,
    held: Held,
    *,
    batch: int,
    half: bool,
    device: torch.device,
    alike: bool,
    say: Callable[[str], None],
) -> TrainSettings:
    """`settings` where a step fits the device; else with maps computed again, and then a batch in parts too.

    What the user said stays. `alike`: whether a batch may go in parts without changing what is learned.
    """
    room = int(SHARE * (total_memory(device) if device.type == "cuda" else free_memory()))
    tried, before = settings, step_bytes(held, settings, half=half)
    if before <= room:
        return settings
    if settings.checkpointing == "auto" and held.segments:
        tried = tried.model_copy(update={"checkpointing": True})
    parts = 1
    while (
        settings.accumulate == "auto"
        and alike
        and not settings.deterministic
        and step_bytes(held, tried, half=half) > room
        and parts < batch
    ):
        parts = min(batch, 2 * parts)
        tried = tried.model_copy(update={"accumulate": parts})
    if tried != settings:
        done = [f"train.checkpointing: {str(tried.checkpointing).lower()}", f"train.accumulate: {parts}"]
        say(
            f"a step would take about {bytes_text(before)}, and {bytes_text(room)} are free: going on with "
            f"{' and '.join(done[: 1 + (parts > 1)] if tried.checkpointing is True else done[1:])}, which "
            f"takes about {bytes_text(step_bytes(held, tried, half=half))}"
        )
    return tried


def memory_line(held: Held, settings: TrainSettings, batch: int) -> str:
    """What `check` says of it: a step in fp32, and in bf16, and what would take less."""

    def both(tried: TrainSettings) -> str:
        full, half = (bytes_text(step_bytes(held, tried, half=half)) for half in (False, True))
        return f"{full} in fp32, {half} in bf16"

    kinds = {"fp32": False, "bf16": True}
    own = both(settings)
    if settings.precision in kinds:
        own = bytes_text(step_bytes(held, settings, half=kinds[settings.precision]))
    ways = []
    tried = settings
    if settings.checkpointing is not True and held.segments:
        tried = tried.model_copy(update={"checkpointing": True})
        ways.append(f"with train.checkpointing: true {both(tried)}")
    if settings.accumulate in ("auto", 1) and batch > 1:
        tried = tried.model_copy(update={"accumulate": batch})
        besides = " besides" if ways else ""
        ways.append(f"with train.accumulate: {batch}{besides} {both(tried)}")
    return "; ".join([f"a training step of {batch} patches takes about {own}", *ways])
