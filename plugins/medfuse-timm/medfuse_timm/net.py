"""A network of timm that takes medfuse's images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medfuse import ImageInfo, ShapeError
from medfuse.core.errors import reason
from medfuse.core.json_text import shortened
from medfuse_timm.sources import Normalization, timm


class Network(nn.Module):
    """x (batch, 1 or channels, *spatial) in [0, 1] → what the network makes of it, its head left out."""

    def __init__(self, network: nn.Module, channels: int, normalization: Normalization | None) -> None:
        super().__init__()
        self.network = network
        self._channels = channels
        mean, std = normalization or (None, None)
        self.register_buffer("mean", _per_channel(mean))
        self.register_buffer("std", _per_channel(std))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self._channels:
            x = x.expand(-1, self._channels, -1, -1)
        if self.mean is not None:
            x = (x - self.mean) / self.std
        made: Tensor = self.network(x)
        return made


def build(
    name: str,
    parameters: Mapping[str, Any],
    channels: int,
    normalization: Normalization | None,
    image: ImageInfo,
) -> nn.Module:
    """The network with fresh weights. Raises ShapeError where timm cannot make it."""
    for numbers in normalization or ():
        if len(numbers) not in (1, channels):
            raise ShapeError(f"mean and std have {len(numbers)} numbers, and the network {channels} channels")
    network = create(name, {**parameters, "in_chans": channels}, image, num_classes=0)
    return Network(network, channels, normalization)


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


def _per_channel(numbers: Sequence[float] | None) -> Tensor | None:
    return None if numbers is None else torch.tensor(numbers, dtype=torch.float32).view(1, -1, 1, 1)
