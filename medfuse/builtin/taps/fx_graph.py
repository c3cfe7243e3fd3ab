"""Taps by tracing: a graph that computes what the taps need, in networks that are no chain too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medfuse import FeatureInfo, ImageInfo, TapStrategy

if TYPE_CHECKING:
    from torch import nn


class FxGraph(TapStrategy):
    """Traces the network with torch.fx and keeps the operations that the taps need (Reed et al. 2022).

    Layers that nobody needs are dropped, parameters included, wherever they are. Refuses networks whose code
    depends on values or shapes. The outputs are those of forward_hook to the last bit.

        taps:
          encoder: {use: fx_graph, layers: [layer1.0.conv1, layer2]}
    """

    def attach(self, backbone: nn.Module, taps: Sequence[FeatureInfo], image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.taps_fx import reduce

        return reduce(backbone, taps, image)
