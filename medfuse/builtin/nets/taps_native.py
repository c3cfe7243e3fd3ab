"""Networks that return their features by themselves, with the layer that makes each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from medfuse.builtin.nets.taps import Observer, layer
from medfuse.core.errors import ShapeError
from medfuse.core.features import ImageInfo

REMEDY = "tap it with forward_hook instead"

Place = tuple[str | int, ...]
"""Keys and indices into what a network returns; empty where it returns one tensor."""


class Returned(nn.Module):
    """x → {name: Tensor}, picked from the network's own output; nothing is hooked and nothing copied."""

    def __init__(self, backbone: nn.Module, places: Mapping[str, Place]) -> None:
        super().__init__()
        self.backbone = backbone
        self.places = dict(places)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        made = self.backbone(x)
        return {name: _at(made, place) for name, place in self.places.items()}


def find_returned(backbone: nn.Module, names: Sequence[str], image: ImageInfo) -> Returned:
    """Find each tap in what the network returns, in training and in inference.

    A returned tensor is a layer's output where it is the very object, and was not overwritten since. Raises
    ShapeError with the taps that are not returned, and with those that are.
    """
    paths = {module: path for path, module in backbone.named_modules()}
    wanted = {name: paths[layer(backbone, name)] for name in names}
    training = backbone.training
    try:
        other = _returned(backbone.train(not training), list(paths.values()), image)
        places = _returned(backbone.train(training), list(paths.values()), image)
    finally:
        backbone.train(training)
    missing = [name for name, path in wanted.items() if path not in places]
    if missing:
        raise ShapeError(f"the network does not return {', '.join(missing)}; {_offer(places)}; {REMEDY}")
    if any(other.get(path) != places[path] for path in wanted.values()):
        raise ShapeError(f"the network returns other maps in training than in inference; {REMEDY}")
    return Returned(backbone, {name: places[path] for name, path in wanted.items()})


def _returned(backbone: nn.Module, paths: Sequence[str], image: ImageInfo) -> dict[str, Place]:
    """Where in the network's output each layer's output is, outermost layers first."""
    seen = Observer(backbone, [path for path in paths if path], image)
    found: dict[str, Place] = {}
    for place, tensor in _tensors(seen.returned, ()):
        for path in paths:
            if path in seen.made and seen.made[path][0] is tensor and not seen.overwritten(path):
                found.setdefault(path, place)
    return found


def _tensors(made: Any, place: Place) -> Iterator[tuple[Place, Tensor]]:
    if isinstance(made, Tensor):
        yield place, made
    elif isinstance(made, Mapping):
        for key, inner in made.items():
            yield from _tensors(inner, (*place, key))
    elif isinstance(made, list | tuple):
        for index, inner in enumerate(made):
            yield from _tensors(inner, (*place, index))


def _offer(places: Mapping[str, Place]) -> str:
    """What is returned: for each map the outermost of the layers whose output it is."""
    makers: dict[Place, str] = {}
    for path, place in places.items():
        makers.setdefault(place, path)
    return f"it returns {', '.join(makers.values())}" if makers else "no layer's output is returned as it is"


def _at(made: Any, place: Place) -> Tensor:
    inner = made
    for key in place:
        sequence = isinstance(inner, list | tuple) and isinstance(key, int) and key < len(inner)
        if not (sequence or (isinstance(inner, Mapping) and key in inner)):
            raise ShapeError(
                f"the network returned a {type(made).__name__} without {list(place)}, where a tap was found "
                f"when it was tried out; {REMEDY}"
            )
        inner = inner[key]
    if not isinstance(inner, Tensor):
        raise ShapeError(f"the network returned a {type(inner).__name__} in place of a tap; {REMEDY}")
    return inner
