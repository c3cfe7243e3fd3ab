"""PyTorch as it is installed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medfuse.api import Runtime

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

log = logging.getLogger(__name__)


class Torch(Runtime):
    """PyTorch, on the device that holds the model; on CUDA as one CUDA graph.

    `auto` precision and the CUDA graph are used only where they give what plain fp32 gives on the first
    windows.

        runtime: {use: torch, precision: auto}
    """

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 (fp16 on a GPU without it) where a probe finds it right and faster"
    )
    channels_last: bool = Field(
        True, description="keep channels innermost in memory, which most convolutions prefer"
    )

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        """Put `model` into evaluation mode (and channels_last) and find out how to run it."""
        from medfuse.core.engine import Running

        eager = self.eager(model, example)
        return Running(as_graph(eager, example), precision=eager.kind)

    def eager(self, model: nn.Module, example: Tensor) -> Eager:
        """The network operation by operation, in the precision and layout that suit it."""
        import torch

        from medfuse.core.device import choose_precision
        from medfuse.core.layout import channels_last, lay_out

        layout = channels_last(example.dim()) if self.channels_last else torch.contiguous_format
        model.eval()
        lay_out(model, example.dim(), layout)
        precision = choose_precision(
            self.precision, model, example.contiguous(memory_format=layout), backward=False
        )
        if self.precision == "auto":
            log.info("torch runs the network in %s: %s", precision.kind, precision.reason)
        return Eager(model, layout, precision.kind)


@dataclass(frozen=True)
class Eager:
    """Windows (batch, channels, *patch_size), any number of them → logits in the kind that computed them."""

    model: Callable[[Tensor], Tensor]
    layout: torch.memory_format
    kind: str

    def __call__(self, windows: Tensor) -> Tensor:
        import torch

        from medfuse.core.device import autocast

        with torch.inference_mode(), autocast(windows.device, self.kind):
            return self.model(windows.contiguous(memory_format=self.layout))


def as_graph(run: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """On CUDA `run` captured for batches like `example`, where that works and is right; else `run`."""
    if example.device.type != "cuda":
        return run
    from medfuse.core.cuda import capture

    return either(run, lambda: capture(run, example), example, "torch captures no CUDA graph")


def either(
    plain: Callable[[Tensor], Tensor],
    make: Callable[[], Callable[[Tensor], Tensor]],
    example: Tensor,
    otherwise: str,
) -> Callable[[Tensor], Tensor]:
    """What `make` returns, where it answers `example` as `plain` does; else `plain`, and a line why."""
    from medfuse.core.device import disagreement
    from medfuse.core.errors import reason

    try:
        other = make()
        fault = disagreement(plain(example), other(example))
    except Exception as error:  # no C++ compiler, an operator it does not know: it has many ways to fail
        fault = reason(error)
    if fault:
        log.warning("%s: %s", otherwise, fault)
    return plain if fault else other
