"""PyTorch as it is installed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medfuse.api import Runtime

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

log = logging.getLogger(__name__)


class Torch(Runtime):
    """PyTorch, on the device that holds the model.

    `auto` precision and `compile` are used only where they give what plain fp32 gives on the first windows.

        runtime: {use: torch, precision: auto, compile: true}
    """

    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where a probe finds it right and faster"
    )
    channels_last: bool = Field(
        True, description="keep channels innermost in memory, which most convolutions prefer"
    )
    compile: bool = Field(
        False, description="torch.compile the network: slow to begin, then faster; falls back, saying why"
    )

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        """Put `model` into evaluation mode (and channels_last) and find out how to run it."""
        import torch

        from medfuse.core.device import channels_last, choose_precision, lay_out

        layout = channels_last(example.dim()) if self.channels_last else torch.contiguous_format
        model.eval()
        lay_out(model, example.dim(), layout)
        precision = choose_precision(
            self.precision, model, example.contiguous(memory_format=layout), backward=False
        )
        log.info("torch runs the network in %s: %s", precision.kind, precision.reason)
        plain = _runner(model, layout, bf16=precision.kind == "bf16")
        if not self.compile:
            return plain
        compiled = _runner(torch.compile(model), layout, bf16=precision.kind == "bf16")
        try:
            fault = disagreement(plain(example), compiled(example))
        except Exception as error:  # no C++ compiler, an operator it does not know: it has many ways to fail
            fault = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        if fault:
            log.warning("torch does not compile the network: %s", fault)
        return plain if fault else compiled


def disagreement(expected: Tensor, given: Tensor) -> str:
    """In words, how logits (batch, classes, *spatial) differ by more than rounding; else empty."""
    error = float((given - expected).norm() / expected.norm().clamp_min(1e-12))
    same = float((given.argmax(1) == expected.argmax(1)).float().mean())
    if error <= 0.05 and same >= 0.99:
        return ""
    return f"its results change (relative error {error:.2g}, {same:.1%} of the voxels in the same class)"


def _runner(
    model: Callable[[Tensor], Tensor], layout: torch.memory_format, *, bf16: bool
) -> Callable[[Tensor], Tensor]:
    import torch

    def run(windows: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast(windows.device.type, torch.bfloat16, enabled=bf16):
            return model(windows.contiguous(memory_format=layout)).float()

    return run
