"""PyTorch in fp32, with fewer multiplications."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from medfuse.api import Runtime

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)


class TorchWinograd(Runtime):
    """PyTorch in fp32 on a CPU, its 3-D convolutions by Winograd's minimal filtering along the first axis.

    That takes half of their multiplications, which a processor without units for bf16 spends its time on.
    It is used where it gives what the network gives on the first windows; else a line says why not.

        runtime: {use: torch_winograd}
    """

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        """Transform the kernels. Raises MedfuseError for windows that lie on another device."""
        from medfuse.builtin.runtimes.torch import Torch, either
        from medfuse.core.engine import Running
        from medfuse.core.errors import MedfuseError
        from medfuse.model.winograd import with_winograd

        if example.device.type != "cpu":
            raise MedfuseError(f"torch_winograd is for the CPU, and the windows lie on {example.device.type}")
        eager = Torch(precision="fp32", channels_last=True).eager(model, example)
        quick = with_winograd(model)
        if quick is None:
            log.info("torch_winograd changes nothing in the network: it has no 3-D convolution that gains")
            return Running(eager, runtime="torch", precision="fp32")
        best = either(eager, lambda: replace(eager, model=quick), example, "torch runs the network as it is")
        return Running(best, **({"runtime": "torch"} if best is eager else {}), precision="fp32")
