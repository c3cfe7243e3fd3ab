"""What an unknown network offers: found by running it once with a hook on every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from math import prod
from typing import Any

from torch import nn

from medfuse.core.errors import PluginError, did_you_mean
from medfuse.core.features import FeatureInfo, ImageInfo
from medfuse.model.layers import find_layers


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
    layers = sorted(find_layers(build, image), key=lambda layer: layer.order)
    features = [feature for layer in layers if layer.name and (feature := layer.feature())]
    return sorted(features, key=lambda feature: prod(feature.stride))
