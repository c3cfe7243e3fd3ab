"""A network that looks at channels or the middle of its input, its features brought back to the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfuse.builtin.nets.within import Within, place
from medfuse.core.features import FeatureInfo


class View(Within):
    """x → {VIEW.LAYER: Tensor}; each of these is also the output of a layer of that path, for taps.

    The views go through `network` as one larger batch, so batch normalisation sees all of them together.
    Where `joined`, their maps lie side by side as one. What is seen are the channels, or their `mean`.
    """

    def __init__(
        self,
        network: nn.Module,
        features: Sequence[FeatureInfo],
        views: Mapping[str, Sequence[int]],
        crop: Sequence[int] | None,
        *,
        joined: bool = False,
        mean: bool = False,
    ) -> None:
        super().__init__(network, features)
        self._views = {name: list(channels) for name, channels in views.items()}
        self._crop = tuple(crop) if crop else None
        self._joined, self._mean = joined, mean
        for name in self._features:
            for path in self._paths(name):
                place(self, path)

    def _paths(self, name: str) -> list[str]:
        return [f"{view}.{name}" if view else name for view in ([""] if self._joined else self._views)]

    def _inner_of(self, name: str) -> str:
        view, _, rest = name.partition(".")
        return rest if not self._joined and view in self._views else name

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        size = x.shape[2:]
        starts = self._starts(size)
        for axis, start in enumerate(starts):
            x = x.narrow(2 + axis, start, min(self._crop[axis], size[axis])) if self._crop else x
        x = x.mean(dim=1, keepdim=True) if self._mean else x
        parts = [torch.cat([x[:, c : c + 1] for c in channels], dim=1) for channels in self._views.values()]
        made: dict[str, Tensor] = {}
        for name, inner in self._made(torch.cat(parts)).items():
            feature = self._features[name]
            maps = feature.as_map(inner, x.shape[2:]).chunk(len(parts))
            views = [("", torch.cat(maps, dim=1))] if self._joined else zip(self._views, maps)
            for view, one in views:
                path = f"{view}.{name}" if view else name
                pasted = self._crop and not feature.image_level
                whole = self._pasted(one, feature.stride, starts, size) if pasted else one
                made[path] = self.get_submodule(path)(whole)
        return made

    def _starts(self, size: Sequence[int]) -> list[int]:
        """Where the crop begins: about the middle, at a multiple of every stride, so that grids agree."""
        if not self._crop:
            return [0] * len(size)
        grids = [f.stride for f in self._features.values() if not f.image_level]
        steps = [math.lcm(*per_axis) for per_axis in zip(*grids)] or [1] * len(size)
        return [max(0, n - c) // 2 // step * step for n, c, step in zip(size, self._crop, steps)]

    @staticmethod
    def _pasted(x: Tensor, stride: Sequence[int], starts: Sequence[int], size: Sequence[int]) -> Tensor:
        """A crop's map within that of the whole, of zeros."""
        padding: list[int] = []
        for axis in reversed(range(len(size))):
            before = starts[axis] // stride[axis]
            padding += [before, -(-size[axis] // stride[axis]) - before - x.shape[2 + axis]]
        return functional.pad(x, padding)
