"""Taps by forward hooks: works on every network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medfuse import FeatureInfo, ImageInfo, TapStrategy

if TYPE_CHECKING:
    from torch import nn


class ForwardHook(TapStrategy):
    """Listens to layers while the whole network runs; gradients stay alive.

    Where a layer runs more than once its last output counts, with a warning; `layer#1` is its first. An
    element of a tuple or dict that it returns is `layer[0]` or `layer[key]`. An output that a later operation
    overwrites in place is copied.

        taps:
          encoder: {use: forward_hook, layers: [layer1, layer2]}
    """

    def attach(self, backbone: nn.Module, taps: Sequence[FeatureInfo], image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.taps import hook

        return hook(backbone, taps, image)
