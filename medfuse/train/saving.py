"""How a training step keeps within the memory of its device: maps computed again, a batch in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from medfuse.core.recompute import in_parts, recomputed
from medfuse.train.settings import TrainSettings


class Saving:
    """What is done about memory now, and what is left to do where a step runs out of it.

    `model` is what learns, `segments` paths of those of its modules whose insides need not be kept. Maps are
    computed again before a batch goes in parts, as the first costs less time; patches and batches themselves
    are the pipeline's, and stay. Entered, it has effect; left, the model is as it was.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: TrainSettings,
        segments: Sequence[str] = (),
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.checkpointing = settings.checkpointing is True
        self.parts = 1 if settings.accumulate == "auto" else settings.accumulate
        self._model, self._segments, self._say = model, tuple(segments), say
        self._may_recompute = settings.checkpointing == "auto" and bool(segments)
        self._may_split = settings.accumulate == "auto" and not settings.deterministic and splits_alike(model)
        self._compiled, self._stack = settings.compile, ExitStack()

    def __enter__(self) -> Self:
        if self.checkpointing:
            self._stack.enter_context(recomputed(self._model, self._segments))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def around(self, network: Callable[..., Any]) -> Callable[..., Any]:
        """`network`, called as it is to be called now."""
        return in_parts(network, self.parts, self._model)

    def more(self, patches: int) -> bool:
        """Take the next way to save memory, for a batch of so many patches; whether there was one."""
        if self._may_recompute and not self.checkpointing:
            self.checkpointing = True
            self.__enter__()
            if self._compiled:
                torch.compiler.reset()  # what was compiled keeps maps
            self._say("the device's memory is too small: going on with train.checkpointing: true")
            return True
        if self._may_split and self.parts < patches:
            self.parts = min(patches, 2 * self.parts)
            self._say(f"the device's memory is too small: going on with train.accumulate: {self.parts}")
            return True
        return False

    def has_more(self, patches: int) -> bool:
        """Whether there is another way."""
        return (self._may_recompute and not self.checkpointing) or (self._may_split and self.parts < patches)

    def advice(self, patches: int) -> str:
        """What a user may still do about a step that runs out of memory."""
        ways = [] if self.checkpointing else ["train.checkpointing: true"]
        ways += [f"train.accumulate: {patches}"] if self.parts < patches else []
        return " and ".join(ways) or "a smaller sample.patch_size, as `medfuse init --budget` plans it"


def splits_alike(model: nn.Module) -> bool:
    """Whether a batch in parts is what it is as a whole: no norm takes its statistics from all of a batch."""
    return not any(
        isinstance(m, nn.modules.batchnorm._BatchNorm) and (m.training or not m.track_running_stats)
        for m in model.modules()
    )
