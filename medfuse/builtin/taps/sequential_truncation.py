"""Taps by cutting the network off: computes nothing that is not used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medfuse import FeatureInfo, ImageInfo, TapStrategy

if TYPE_CHECKING:
    from torch import nn


class SequentialTruncation(TapStrategy):
    """Runs the layers in turn up to the deepest tap and drops the rest, parameters included.

    For networks that are a chain up to there, as ResNets and plain encoders are; others are refused. The
    outputs are those of forward_hook to the last bit.

        taps:
          encoder: {use: sequential_truncation, layers: [layer1, layer2]}
    """

    def attach(self, backbone: nn.Module, taps: Sequence[FeatureInfo], image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.taps_chain import truncate

        return truncate(backbone, taps, image)
