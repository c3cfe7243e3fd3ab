"""A network that answers with the logits of its auxiliary heads too, after those of the main one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medfuse.model.plan import GraphPlan
from medfuse.model.resample import resize
from medfuse.model.segmenter import Segmenter


class EveryHead(nn.Module):
    """image → (batch, (1 + heads) · classes, *spatial), the main head's logits first.

    The taps are computed anyway: a head more is a 1×1 convolution.
    """

    def __init__(self, network: Segmenter, heads: Sequence[str]) -> None:
        super().__init__()
        self.network, self.heads = network, tuple(heads)

    def forward(self, image: Tensor) -> Tensor:
        logits, inner = self.network(image, self.heads)
        return torch.cat([logits, *(resize(inner[name], image.shape[2:]) for name in self.heads)], 1)


def heads_to_compare(graph: GraphPlan) -> tuple[str, ...]:
    """The auxiliary heads that decide voxels, which those of image-level maps do not."""
    return tuple(name for name in graph.aux if name not in graph.presence)
