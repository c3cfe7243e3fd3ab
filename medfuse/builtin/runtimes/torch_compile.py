"""PyTorch's compiler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from medfuse.builtin.runtimes.torch import Torch, as_graph, either

if TYPE_CHECKING:
    from torch import Tensor, nn


class TorchCompile(Torch):
    """PyTorch, with the network compiled for one shape of windows: minutes to begin, then faster.

    Compiled code is used only where it gives what the network gives on the first windows; else it runs as
    `torch` would, and a line says why.

        runtime: {use: torch_compile, precision: auto}
    """

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        """Find out precision and layout as `torch` does, then compile."""
        import torch

        from medfuse.core.batches import in_batches_of
        from medfuse.core.engine import Running

        eager = self.eager(model, example)
        compiled = in_batches_of(len(example), replace(eager, model=torch.compile(model, dynamic=False)))
        best = either(eager, lambda: compiled, example, "torch does not compile the network")
        told = {"runtime": "torch"} if best is eager else {}
        return Running(as_graph(best, example), **told, precision=eager.kind)
