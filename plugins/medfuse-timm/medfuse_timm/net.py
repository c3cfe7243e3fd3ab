"""A network of timm that takes medfuse's images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from medfuse import ImageInfo, ShapeError
from medfuse.core.errors import reason
from medfuse.core.json_text import shortened
from medfuse.model.pictured import Pictured
from medfuse.model.pictures import Normalization
from medfuse_timm.sources import timm


def build(
    name: str,
    parameters: Mapping[str, Any],
    channels: int,
    normalization: Normalization | None,
    image: ImageInfo,
) -> nn.Module:
    """The network with fresh weights. Raises ShapeError where timm cannot make it."""
    network = create(name, {**parameters, "in_chans": channels}, image, num_classes=0)
    return Pictured(network, channels, normalization)


def create(name: str, parameters: Mapping[str, Any], image: ImageInfo, **further: Any) -> nn.Module:
    """What timm makes, for images of this size: positions interpolated as it runs, or made for the size."""
    library = timm()
    for sized in _sized(parameters, image):
        try:
            network: nn.Module = library.create_model(name, **{**parameters, **sized}, **further)
            return network
        except Exception as error:  # whatever its author chose to raise
            unknown = isinstance(error, TypeError) and any(repr(word) in str(error) for word in sized)
            if unknown:
                continue
            of_meta = torch.get_default_device().type == "meta"
            if of_meta and not isinstance(error, AssertionError | TypeError | ValueError):
                raise  # for whoever tries it out, with real weights then
            raise ShapeError(
                f"timm's {name} cannot be made: {shortened(reason(error), 200)}; mend its `parameters`"
            ) from error
    raise AssertionError("the last way says nothing of a size")


def _sized(parameters: Mapping[str, Any], image: ImageInfo) -> Iterator[dict[str, Any]]:
    """Ways to tell a network of an image's size; not one of them is known to all networks."""
    if "dynamic_img_size" not in parameters:
        yield {"dynamic_img_size": True, "dynamic_img_pad": True}
        yield {"dynamic_img_size": True}
        if "img_size" not in parameters:
            yield {"img_size": tuple(image.patch_size)}
    yield {}
