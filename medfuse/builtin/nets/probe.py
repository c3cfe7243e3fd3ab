"""What an unknown network offers: found by running it once with a hook on every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from math import prod
from typing import Any

from torch import nn

from medfuse.core.errors import PluginError, did_you_mean
from medfuse.core.features import FeatureInfo, ImageInfo
from medfuse.model.trial import spatial, trial, try_out


def construct(target: str, parameters: Mapping[str, Any]) -> nn.Module:
    """`package.module:Class`, made with `parameters`. Raises PluginError where it is no network."""
    path, _, name = target.partition(":")
    try:
        module = import_module(path)
    except Exception as error:
        raise PluginError(
            f"target {target}: {path} cannot be imported ({type(error).__name__}: {error}); "
            "install its package, or mend the name"
        ) from error
    made = getattr(module, name, None)
    if made is None:
        raise PluginError(f"target {target}: {path} has no {name!r}{did_you_mean(name, dir(module))}")
    if not (isinstance(made, type) and issubclass(made, nn.Module)):
        raise PluginError(f"target {target}: is not a subclass of torch.nn.Module; name a class that is")
    try:
        return made(**parameters)
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        raise PluginError(
            f"target {target}: refuses these parameters: {type(error).__name__}: {error}"
        ) from error


def find_features(build: Callable[[], nn.Module], image: ImageInfo) -> list[FeatureInfo]:
    """Every layer's output that is a map of `image` at a whole stride, finest first, then as they run."""
    made = try_out(build, lambda network: _outputs(network, image))
    found = [
        FeatureInfo(name, channels, stride)
        for name, (channels, *size) in made.items()
        if (stride := _stride(image.patch_size, size))
    ]
    return sorted(found, key=lambda f: prod(f.stride))


def _outputs(network: nn.Module, image: ImageInfo) -> dict[str, tuple[int, ...]]:
    """(channels, *spatial) of every layer that makes a map; of one that runs twice, the last."""
    made: dict[str, tuple[int, ...]] = {}

    def keep(name: str, _: nn.Module, __: Any, output: Any) -> None:
        made.pop(name, None)
        if spatial(output, image.dims):
            made[name] = tuple(output.shape[1:])

    for name, module in network.named_modules():
        if name:
            module.register_forward_hook(partial(keep, name))
    trial(network, image)
    return made


def _stride(image: tuple[int, ...], size: list[int]) -> tuple[int, ...]:
    """Voxels of the image per voxel of a map, or nothing where that is no whole number."""
    stride = tuple(max(1, round(n / m)) for n, m in zip(image, size))
    whole = all(n // s <= m <= -(-n // s) for n, m, s in zip(image, size, stride))
    return stride if whole else ()
