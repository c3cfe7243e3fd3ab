"""Taps that the network returns by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medfuse import FeatureInfo, ImageInfo, TapStrategy

if TYPE_CHECKING:
    from torch import nn


class Native(TapStrategy):
    """Uses what the network returns: a list, tuple or dict of features, however nested.

    A trial pass finds which layer makes each returned map, and taps have the layers' names. Taps that are
    not returned are refused.

        taps:
          encoder: {use: native, layers: [layers.0.blocks, layers.1.blocks]}
    """

    def attach(self, backbone: nn.Module, taps: Sequence[FeatureInfo], image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.taps_native import find_returned

        return find_returned(backbone, taps, image)
