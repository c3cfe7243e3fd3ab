"""Every layer of a network, as one trial shows it: its map, its parameters, its share of the compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from medfuse.core.features import FeatureInfo, ImageInfo
from medfuse.model.trial import BATCH, spatial, trial, try_out


@dataclass(frozen=True)
class Layer:
    """A module of a network, the modules inside it included.

    `map_size` is (channels, *spatial) of its last output, empty where that is no map of the image. `flops`
    are of one patch, two for each multiplication and addition in convolutions and linear layers.
    """

    name: str
    kind: str
    map_size: tuple[int, ...]
    stride: tuple[int, ...]
    parameters: int
    flops: int
    runs: int
    order: int  # among the layers that ran, by the end of the last time; -1 where it did not

    def feature(self) -> FeatureInfo | None:
        """What can be tapped here; None where the output is no map at a whole stride."""
        return FeatureInfo(self.name, self.map_size[0], self.stride) if self.stride else None


def find_layers(build: Callable[[], nn.Module], image: ImageInfo) -> list[Layer]:
    """The network itself, by the name of "", then its layers in the order in which they are registered."""
    return try_out(build, lambda network: _Survey(network, image).layers)


class _Survey:
    """One trial of a network with a hook on every layer."""

    def __init__(self, network: nn.Module, image: ImageInfo) -> None:
        self._start()
        network.register_forward_pre_hook(self._start)
        for name, module in network.named_modules():
            module.register_forward_hook(partial(self._note, name))
        trial(network, image)
        order = {name: place for place, name in enumerate(self.made)}
        self.layers = [
            self._layer(name, module, image, order.get(name, -1)) for name, module in network.named_modules()
        ]

    def _start(self, *_: Any) -> None:
        self.runs: dict[str, int] = {}  # a trial may need a second pass
        self.made: dict[str, Any] = {}
        self.flops: dict[str, int] = {}

    def _note(self, name: str, module: nn.Module, given: Any, output: Any) -> None:
        self.runs[name] = self.runs.get(name, 0) + 1
        self.made.pop(name, None)  # so that its place is that of the last time
        self.made[name] = output
        if flops := _flops(module, given, output):
            for path in _around(name):
                self.flops[path] = self.flops.get(path, 0) + flops

    def _layer(self, name: str, module: nn.Module, image: ImageInfo, order: int) -> Layer:
        made: Any = self.made.get(name)
        map_size: tuple[int, ...] = tuple(made.shape[1:]) if spatial(made, image.dims) else ()
        return Layer(
            name,
            type(module).__name__,
            map_size,
            _stride(image.patch_size, map_size[1:]),
            sum(p.numel() for p in module.parameters()),
            self.flops.get(name, 0) // BATCH,
            self.runs.get(name, 0),
            order,
        )


def _flops(module: nn.Module, given: Any, output: Any) -> int:
    """Of the whole batch. A transposed convolution multiplies every voxel that it is given."""
    if not isinstance(output, Tensor):
        return 0
    if isinstance(module, _ConvTransposeNd):
        return 2 * module.weight.numel() * given[0].shape[0] * prod(given[0].shape[2:])
    if isinstance(module, _ConvNd):
        return 2 * module.weight.numel() * output.shape[0] * prod(output.shape[2:])
    if isinstance(module, nn.Linear):
        return 2 * module.weight.numel() * prod(output.shape[:-1])
    return 0


def _around(name: str) -> list[str]:
    """A layer's path, and those of all that it lies in, "" included."""
    parts = name.split(".") if name else []
    return [".".join(parts[:end]) for end in range(len(parts) + 1)]


def _stride(image: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...]:
    """Voxels of the image per voxel of a map, or nothing where that is no whole number."""
    stride = tuple(max(1, round(n / m)) for n, m in zip(image, size))
    return stride if all(n // s <= m <= -(-n // s) for n, m, s in zip(image, size, stride)) else ()
