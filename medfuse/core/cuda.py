"""A network as one CUDA graph, so that launching its kernels costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from medfuse.core.batches import in_batches_of

if TYPE_CHECKING:
    from torch import Tensor

_WARM_PASSES = 3  # until cuDNN has chosen its kernels and the allocator has its blocks


def capture(run: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """`run` on batches like `example`, recorded once and replayed; any number of windows is welcome."""
    import torch

    given = example.clone()
    side = torch.cuda.Stream(example.device)
    side.wait_stream(torch.cuda.current_stream(example.device))
    with torch.cuda.stream(side):
        for _ in range(_WARM_PASSES):
            run(given)
    torch.cuda.current_stream(example.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = run(given)

    def replay(windows: Tensor) -> Tensor:
        with torch.inference_mode():
            given.copy_(windows, non_blocking=True)
            graph.replay()
            return made.clone()  # the next replay writes over `made`

    return in_batches_of(len(example), replay)
