"""Weights that a backbone brings along: given to its network before all others, and known by their hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from medfuse.api import Backbone, ImageInfo, Origin
from medfuse.core.errors import CheckpointError
from medfuse.core.text import by
from medfuse.model.origin import said
from medfuse.model.weights import tensors_hash
from medfuse.registry import blame


@dataclass(frozen=True)
class Brought:
    """What a network got from its own backbone: `tensors` of `wanted`, a `share` of its parameters."""

    origin: Origin
    sha256: str
    tensors: int
    wanted: int
    share: float

    def summary(self) -> str:
        """`152 of 160 tensors (99.6% of its parameters) from facebook/dinov2-small@1a2b (apache-2.0)`."""
        return (
            f"{self.tensors} of {self.wanted} tensors ({self.share:.1%} of its parameters) from "
            f"{said(self.origin)}, SHA-256 {self.sha256[:12]}…"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.origin.source,
            "license": self.origin.license,
            "sha256": self.sha256,
            "tensors": self.tensors,
            "of": self.wanted,
            "share_of_parameters": round(self.share, 4),
        }


def bring(network: nn.Module, backbone: Backbone, image: ImageInfo) -> Brought | None:
    """Give `network`, which `backbone` has built, the weights that it brings along; None where it has none.

    What they do not have stays as it is. Raises CheckpointError where they are another network's.
    """
    weights, origin = backbone.weights(image), backbone.origin()
    if not weights:
        if origin is not None:
            raise CheckpointError(f"{blame(backbone)} names weights of {origin.source} and brings none")
        return None
    own = network.state_dict()
    if faults := _faults(own, weights):
        raise CheckpointError(f"{blame(backbone)} brings weights of another network: {'; '.join(faults)}")
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)
    return Brought(
        origin or Origin("what it brings along"),
        tensors_hash(weights),
        len(weights),
        len(own),
        _share(network, weights),
    )


def _faults(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    beyond = [name for name in weights if name not in own]
    unlike = [
        f"{name} is {by(t.shape) or 'a number'} and not {by(own[name].shape) or 'a number'}"
        for name, t in weights.items()
        if name in own and t.shape != own[name].shape
    ]
    faults = [f"it has no {_first(beyond)}"] if beyond else []
    return [*faults, _first(unlike)] if unlike else faults


def _share(network: nn.Module, given: Mapping[str, Tensor]) -> float:
    """Of its parameters, each counted once and given by any of its names."""
    names: dict[int, list[str]] = {}
    sizes: dict[int, int] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        sizes[id(parameter)] = prod(parameter.shape)
    found = sum(size for key, size in sizes.items() if any(name in given for name in names[key]))
    return found / max(1, sum(sizes.values()))


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
