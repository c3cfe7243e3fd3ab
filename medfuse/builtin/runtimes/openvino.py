"""OpenVINO, on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medfuse.api import Runtime

if TYPE_CHECKING:
    from torch import Tensor, nn


class OpenVino(Runtime):
    """OpenVINO, on a CPU, with as many threads as torch has. Needs `pip install 'medfuse[openvino]'`.

    runtime: {use: openvino, precision: auto}
    """

    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the processor has units for it and it gives what fp32 gives"
    )

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        """Convert the network and compile it for batches like `example`."""
        from medfuse.model.openvino import convert, runner

        return runner(convert(model, example), example, self.precision)
