"""Networks that return their features by themselves, with the layer that makes each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from medfuse.builtin.nets.observed import Observer, Tap, check_taps, find_taps
from medfuse.core.errors import ShapeError
from medfuse.core.features import FeatureInfo, ImageInfo
from medfuse.core.text import listed
from medfuse.model.address import Place, element, tensors_in

REMEDY = "tap it with forward_hook instead"


class Returned(nn.Module):
    """x → {name: Tensor}, picked from the network's own output; nothing is hooked and nothing copied."""

    def __init__(self, backbone: nn.Module, places: Mapping[Tap, Place]) -> None:
        super().__init__()
        self.backbone = backbone
        self.places = dict(places)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        made = self.backbone(x)
        return {tap.name: _at(made, place) for tap, place in self.places.items()}


def find_returned(backbone: nn.Module, taps: Sequence[FeatureInfo], image: ImageInfo) -> Returned:
    """Find each tap in what the network returns, in training and in inference.

    A returned tensor is a layer's output where it is the very object, and was not overwritten since. Raises
    ShapeError with the taps that are not returned, and with those that are.
    """
    found = find_taps(backbone, taps)
    paths = [path for path, _ in backbone.named_modules()]
    training, inference = (
        Observer(backbone, [path for path in paths if path], image, training=mode) for mode in (True, False)
    )
    places = {tap: place for tap in found if (place := _place(inference, tap)) is not None}
    missing = [tap.name for tap in found if tap not in places]
    if missing:
        raise ShapeError(
            f"the network does not return {', '.join(missing)}; {_offer(inference, paths)}; {REMEDY}"
        )
    if any(_place(training, tap) != place for tap, place in places.items()):
        raise ShapeError(f"the network returns other maps in training than in inference; {REMEDY}")
    check_taps([tap for tap in found if tap.path], training, inference)
    return Returned(backbone, places)


def _place(seen: Observer, tap: Tap) -> Place | None:
    """Where in the network's output a tap is, if it is returned as it was made."""
    if not tap.path and not tap.call:  # the network itself
        places = [place for place, _ in tensors_in(seen.returned)]
        return tap.place if tap.place in places else None
    made = seen.tensor(tap)
    if made is None or seen.overwritten(tap):
        return None
    return next((place for place, tensor in tensors_in(seen.returned) if tensor is made), None)


def _offer(seen: Observer, paths: Sequence[str]) -> str:
    """What is returned: for each map the outermost of the layers whose output it is."""
    makers: dict[Place, str] = {}
    for path in (path for path in paths if path):
        place = _place(seen, Tap(path, path))
        if place is not None:
            makers.setdefault(place, path)
    if not makers:
        return "no layer's output is returned as it is"
    return f"it returns {listed([*makers.values()])}"


def _at(made: Any, place: Place) -> Tensor:
    try:
        inner = element(made, place)
    except LookupError as error:
        raise ShapeError(
            f"the network returned a {type(made).__name__} without {list(place)}, where a tap was found "
            f"when it was tried out; {REMEDY}"
        ) from error
    if not isinstance(inner, Tensor):
        raise ShapeError(f"the network returned a {type(inner).__name__} in place of a tap; {REMEDY}")
    return inner
