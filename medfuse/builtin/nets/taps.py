"""A network that returns intermediate outputs by forward hooks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

from medfuse.builtin.nets.observed import Observer, check_taps, find_taps
from medfuse.core.errors import ShapeError
from medfuse.core.features import FeatureInfo, ImageInfo


class Hooked(nn.Module):
    """x → {name: Tensor} from forward hooks; the network runs to its end.

    Hooks are bound methods in a `functools.partial`, so a copy or an unpickled network has hooks of its
    own. Outputs are held during the forward pass alone.
    """

    def __init__(self, backbone: nn.Module, taps: Sequence[FeatureInfo], copied: Sequence[str] = ()) -> None:
        """`copied` are the taps that a later in-place operation would overwrite."""
        super().__init__()
        self.backbone = backbone
        self.taps, self.copied = tuple(find_taps(backbone, taps)), tuple(copied)
        self._kept: dict[str, Tensor] = {}
        self._ran: dict[str, int] = {}  # how often each layer did
        self._open = False  # a call of the backbone by another way, or a recomputation, keeps nothing
        for path in dict.fromkeys(tap.path for tap in self.taps):
            backbone.get_submodule(path).register_forward_hook(partial(self._keep, path))

    def add(self, feature: FeatureInfo) -> None:
        """Tap one more layer."""
        (tap,) = find_taps(self.backbone, [feature])
        self.taps = (*self.taps, tap)
        self.backbone.get_submodule(tap.path).register_forward_hook(partial(self._keep, tap.path))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self._open = True
        try:
            self.backbone(x)
            silent = [tap.name for tap in self.taps if tap.name not in self._kept]
            if silent:
                raise ShapeError(
                    f"taps {', '.join(silent)} did not fire: the network did not run these layers, or was "
                    "compiled before it was tapped"
                )
            return {tap.name: self._kept[tap.name] for tap in self.taps}
        finally:
            self._kept.clear()
            self._ran.clear()
            self._open = False

    def _keep(self, path: str, _: nn.Module, __: Any, output: Any) -> None:
        if not self._open:
            return
        self._ran[path] = self._ran.get(path, 0) + 1
        for tap in self.taps:
            if tap.path == path and tap.call in (None, self._ran[path]):
                made = tap.of(output)
                self._kept[tap.name] = made.clone() if tap.name in self.copied else made


Made = TypeVar("Made", bound=Hooked)


def hook(backbone: nn.Module, taps: Sequence[FeatureInfo], image: ImageInfo) -> Hooked:
    """Tap by hooks, tried out on `image`. Raises ShapeError where a layer never runs or makes no tensor."""
    return hook_as(Hooked, backbone, taps, image)


def hook_as(kind: type[Made], backbone: nn.Module, taps: Sequence[FeatureInfo], image: ImageInfo) -> Made:
    """The same, as a kind of hooked network."""
    found = find_taps(backbone, taps)
    paths = [tap.path for tap in found]
    training, inference = (Observer(backbone, paths, image, training=mode) for mode in (True, False))
    check_taps(found, training, inference)
    overwritten = [t.name for t in found if training.overwritten(t) or inference.overwritten(t)]
    return kind(backbone, taps, copied=overwritten)
