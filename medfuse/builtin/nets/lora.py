"""Low-rank changes of layers: a frozen network, and small ones beside some of its layers that learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from medfuse.core.errors import MedfuseError, ShapeError, did_you_mean
from medfuse.core.features import ImageInfo
from medfuse.core.still import freeze
from medfuse.core.text import listed
from medfuse.model.trial import trial, try_out

CHANGE = "lora"
"""What the change of a layer is called in it: names of the layer's own weights stay as they are."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LowRank(nn.Module):
    """What is added to the output of a layer: scale · up(down(x)), zero at first."""

    def __init__(self, layer: nn.Module, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        if isinstance(layer, nn.Linear):
            self.down: nn.Module = nn.Linear(layer.in_features, rank, bias=False)
            self.up: nn.Module = nn.Linear(rank, layer.out_features, bias=False)
        else:
            assert isinstance(layer, _CONVOLUTIONS)
            kind: Any = next(k for k in _CONVOLUTIONS if isinstance(layer, k))
            self.down = kind(
                layer.in_channels,
                rank,
                layer.kernel_size,
                layer.stride,
                layer.padding,
                layer.dilation,
                bias=False,
                padding_mode=layer.padding_mode,
            )
            self.up = kind(rank, layer.out_channels, 1, bias=False)
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.up(self.down(x)) * self.scale
        return change

    def put_into(self, layer: nn.Module) -> None:
        """W + scale · B A, of the layer that it changes (core.merged)."""
        assert isinstance(layer, nn.Linear | _ConvNd)
        with torch.no_grad():
            up, down = (self.get_parameter(f"{part}.weight").double() for part in ("up", "down"))
            change = torch.einsum("or,r...->o...", up.flatten(1), down)
            layer.weight.copy_((layer.weight.double() + self.scale * change).to(layer.weight.dtype))


def adapted(network: nn.Module, globs: Sequence[str], rank: int, scale: float) -> nn.Module:
    """`network`, frozen, with a change beside each layer that a glob names. Raises ShapeError."""
    freeze(network)
    layers = {path: layer for i, glob in enumerate(globs) for path, layer in _named(network, glob, i).items()}
    for layer in layers.values():
        layer.add_module(CHANGE, LowRank(layer, rank, scale))
        layer.register_forward_hook(_changed, with_kwargs=True)
    return network


def _changed(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
    if not hasattr(layer, CHANGE):  # it is in the weights (core.merged)
        return output
    change: Tensor = getattr(layer, CHANGE)(args[0] if args else kwargs["input"])
    return output + change


def refuse_idle(build: Callable[[], nn.Module], globs: Sequence[str], image: ImageInfo) -> None:
    """Raises ShapeError where a network takes weights of a layer without calling it: no change reaches it.

    What else is wrong with the network, others say.
    """

    def look(network: nn.Module) -> None:
        ran: set[str] = set()
        changes = [path for path, module in network.named_modules() if isinstance(module, LowRank)]
        for path in changes:
            network.get_submodule(path).register_forward_hook(lambda *_, path=path: ran.add(path))
        try:
            trial(network, image)
        except MedfuseError:
            return
        idle = [path.removesuffix(f".{CHANGE}") for path in changes if path not in ran]
        for index, glob in enumerate(globs):
            if found := [path for path in idle if _means(glob, path)]:
                said = f"the network takes the weights of {listed(found, 3)} without calling it"
                raise _at(index, f"{said}, so that no change would reach it; name others")

    try_out(build, look)


def _means(glob: str, path: str) -> bool:
    return fnmatchcase(path, glob) or fnmatchcase(path, f"*.{glob}")


def _named(network: nn.Module, glob: str, index: int) -> dict[str, nn.Module]:
    """The layers that a glob means which can be adapted. Raises ShapeError where there is none."""
    meant = {path: layer for path, layer in network.named_modules() if _means(glob, path)}
    found = {path: layer for path, layer in meant.items() if not _unfit(layer)}
    if not found:
        known = [path for path, layer in network.named_modules() if not _unfit(layer)]
        if meant:
            path, layer = next(iter(meant.items()))
            why = f"{path} is {_unfit(layer)}"
        else:
            ends = dict.fromkeys(path.rpartition(".")[2] for path in known)
            why = f"no layer is called {glob!r}{did_you_mean(glob, [*ends, *known])}"
        raise _at(index, f"{why}; layers to adapt are {listed(known, 6) or 'none of this network'}")
    if twice := [path for path, layer in found.items() if hasattr(layer, CHANGE)]:
        raise _at(index, f"{twice[0]} has a change already; adapt a network once")
    return found


def _unfit(layer: nn.Module) -> str:
    """What a layer is that cannot be adapted; empty where it can."""
    if isinstance(layer, _CONVOLUTIONS) and not isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        return "a convolution in groups" if layer.groups > 1 else ""
    if isinstance(layer, nn.Linear) and not isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        return ""
    return f"a {type(layer).__name__}, no linear layer and no convolution"


def _at(index: int, said: str) -> ShapeError:
    error = ShapeError(said)
    error.at = ("on", index)
    return error
