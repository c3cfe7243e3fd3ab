"""OpenVINO, on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medfuse.api import Runtime

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class OpenVino(Runtime):
    """OpenVINO, on a CPU, with as many threads as torch has. Needs `pip install 'medfuse[openvino]'`.

    runtime: {use: openvino, precision: auto}
    """

    precision: Literal["auto", "fp32", "bf16", "int8"] = Field(
        "auto",
        description="auto: int8 where `medfuse quantize` found that it costs nothing, else bf16 where the "
        "processor has units for it and it gives what fp32 gives; int8 alone is refused where no gate was "
        "passed",
    )

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        """Convert the network and compile it for batches like `example`."""
        from medfuse.model.converted import converted
        from medfuse.model.gate import offers_int8
        from medfuse.model.openvino import runner

        if self.precision == "int8" or (self.precision == "auto" and offers_int8(model)):
            from medfuse.model.int8 import run_in_int8

            return run_in_int8(model, example)
        return runner(converted(model, example), example, self.precision)

    def refuse(self, model: nn.Module) -> None:
        """In int8 a network without a gate, or whose files are not what the gate judged."""
        if self.precision == "int8":
            from medfuse.model.gate import passed

            passed(model)

    def choices(self, device: torch.device) -> Sequence[Runtime]:
        """With int8, which is only to be had of networks that passed a gate."""
        usual = super().choices(device)
        if self.precision != "auto":
            return usual
        return (*usual, self.model_copy(update={"precision": "int8"}))
