"""What was learned beside a layer is put into its weights, where a network is only used from now on."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Mergeable(Protocol):
    """A module within a layer, whose part the weights of that layer can take over."""

    def put_into(self, layer: nn.Module) -> None:
        """Change the layer's weights so that it does alone, up to rounding, what both do now."""


def merge(network: nn.Module) -> None:
    """Every module that can be merged is, and is gone; but one that somebody taps."""
    for layer in [*network.modules()]:
        for name, part in [*layer.named_children()]:
            if isinstance(part, Mergeable) and not any(module._forward_hooks for module in part.modules()):
                part.put_into(layer)
                delattr(layer, name)
