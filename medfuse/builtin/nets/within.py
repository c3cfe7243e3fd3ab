"""A network around another one, whose features it hands on in its own way, and what blocks attend to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from medfuse.builtin.nets.attended import ATTENTION, Attended, Watch, as_tokens, listen
from medfuse.builtin.nets.taps import Hooked
from medfuse.core.errors import ShapeError
from medfuse.core.features import FeatureInfo


class Within(nn.Module):
    """`inner` has the features of the network; whoever derives from this brings them to the whole image.

    Each feature that is handed on is the output of a layer of that path, for taps.
    """

    def __init__(self, network: nn.Module, features: Sequence[FeatureInfo]) -> None:
        super().__init__()
        self.inner = Hooked(network, features)
        self._features = {f.name: f for f in features}
        self._attended: dict[str, str] = {}
        self._per_head = False
        self._seen = Attended()

    def attend(self, block: str, *, per_head: bool) -> str:
        """Hand on what a block attends to as well; the path of the layer that makes the map.

        Raises ShapeError where that is not seen, as in networks with windows.
        """
        inner, path = self._inner_of(block), f"{block}_{ATTENTION}"
        name, network = f"{inner}_{ATTENTION}", self.inner.backbone
        feature = self._features[inner]
        self._per_head = per_head
        if name not in self._features:
            if isinstance(network, Within):
                self.inner.add(feature.named(network.attend(inner, per_head=per_head)))
            elif feature.tokens is None:
                raise ShapeError(
                    f"hands on {block} as a map, as networks with windows do, and attention is seen of "
                    "tokens alone; leave out `attention`"
                )
            else:
                listen(self._seen, network, inner)
                self._attended[name] = inner
            self._features[name] = replace(feature, name=name)
            for layer in self._paths(name):
                place(self, layer)
        return path

    def _inner_of(self, name: str) -> str:
        """What the network calls a feature."""
        return name

    def _paths(self, name: str) -> Sequence[str]:
        """The layers by which a feature of the network is handed on."""
        return (name,)

    def _made(self, x: Tensor) -> dict[str, Tensor]:
        """The features of the network, and what is attended to in it."""
        if not self._attended:
            return self.inner(x)
        try:
            with Watch(self._seen):
                made: dict[str, Tensor] = self.inner(x)
            return made | {name: self._attention(name, block) for name, block in self._attended.items()}
        finally:
            self._seen.clear()

    def _attention(self, name: str, block: str) -> Tensor:
        weights, tokens = self._seen.weights.get(block), self._features[name].tokens
        if weights is None or tokens is None:
            raise ShapeError(
                f"computes no attention in {block} of all its tokens to all of them, but in windows or in a "
                "way that cannot be seen; leave out `attention`"
            )
        return as_tokens(weights, tokens.prefix, per_head=self._per_head)


def place(root: nn.Module, path: str) -> None:
    """A layer at `path` that passes on what it is given."""
    for name in path.split("."):
        if name not in dict(root.named_children()):
            root.add_module(name, nn.Identity())
        root = root.get_submodule(name)
