"""What an unknown network offers: found by running it once with a hook on every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import nn

from medfuse.core.errors import PluginError, below, lacks
from medfuse.core.features import FeatureInfo, ImageInfo
from medfuse.core.named import call, find
from medfuse.model.layers import find_layers


def construct(target: str, parameters: Mapping[str, Any]) -> nn.Module:
    """What `package.module:name`, a class or a function, makes of `parameters`.

    Raises PluginError where that is no network. What is raised on the meta device alone is for `try_out`.
    """
    with below("target"):
        find(target)
    try:
        made = call(target, parameters)
    except PluginError as error:
        if isinstance(error.__cause__, Exception) and torch.get_default_device().type == "meta":
            raise error.__cause__ from None
        named = [key for key in parameters if f"'{key}'" in str(error)]
        missing = lacks(error.__cause__)
        of_package = bool(missing) and missing in str(error)
        error.at = ("parameters", *named[:1]) if parameters and not of_package else ("target",)
        raise
    if not isinstance(made, nn.Module):
        raise PluginError(
            f"target {target}: makes a {type(made).__qualname__} and no torch.nn.Module; "
            "name a class or function that does"
        )
    return made


def find_features(
    build: Callable[[], nn.Module], image: ImageInfo, *, partial: bool = False
) -> list[FeatureInfo]:
    """Every layer's output that is a map of `image` at a whole stride, finest first, then as they run.

    What says one thing of the whole image is no part of it, and is tapped where it is named. With `partial`,
    of a network that cannot run to its end on such an image: those of the layers that can.
    """
    layers = sorted(find_layers(build, image, partial=partial), key=lambda layer: layer.order)
    layers = [layer for layer in layers if layer.name and not layer.same_as]
    features = [feature for layer in layers if (feature := layer.feature()) and not feature.image_level]
    return sorted(features, key=lambda feature: prod(feature.stride))
