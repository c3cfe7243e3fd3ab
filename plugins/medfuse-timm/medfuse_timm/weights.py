"""Weights for a network of timm, by their names in it: read as tensors alone, given as timm gives them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from medfuse import CheckpointError, ImageInfo
from medfuse.core.json_text import shortened
from medfuse.model.repository import read_tensors
from medfuse.model.transfer import read_tensors as read_file
from medfuse_timm.net import create
from medfuse_timm.sources import Source, timm

_REMEDY = "give weights of this very network, or the name of the one that they are of"
_USUAL = ("model.safetensors", "pytorch_model.bin")


def read_weights(source: Source, channels: int, image: ImageInfo) -> Mapping[str, Tensor]:
    """Raises CheckpointError where they are no such network's, or not whole.

    timm itself brings them into the network's form: older names, positions for another size of image, first
    convolutions for other channels.
    """
    path, tensors = _tensors(source)
    classes = _classes(source.name, tensors)
    overlay = {"state_dict": tensors, "source": "", "custom_load": False, "num_classes": classes}
    try:
        network = create(
            source.name,
            {**source.parameters, "in_chans": channels},
            image,
            num_classes=classes,
            pretrained=True,
            pretrained_cfg_overlay=overlay,
        )
    except Exception as error:  # whatever a strange state makes timm's filters raise
        said = " ".join(str(error.__cause__ or error).split())
        raise CheckpointError(
            f"{path}: is not of timm's {source.name}: {shortened(said, 200)}; {_REMEDY}"
        ) from error
    head = _head(source.name)
    return {
        f"network.{name}": tensor
        for name, tensor in network.state_dict().items()
        if not (classes and name.startswith(tuple(f"{one}." for one in head)))
    }


def _tensors(source: Source) -> tuple[Path, dict[str, Tensor]]:
    if isinstance(source.weights, Path):
        return source.weights, read_file(source.weights)
    assert source.weights is not None, "asked for where there are some"
    names = (f"{source.file.rpartition('.')[0]}.safetensors", source.file) if source.file else _USUAL
    return read_tensors(source.weights, *names)


def _classes(name: str, tensors: Mapping[str, Tensor]) -> int:
    """How many classes the weights tell apart; 0 where they have no head. Either way nothing is left out."""
    for head in _head(name):
        weight = tensors.get(f"{head}.weight")
        if weight is not None and weight.ndim > 1:
            return weight.shape[0]
    return 0


def _head(name: str) -> tuple[str, ...]:
    """Where timm keeps the network's last layers."""
    found: Any = timm().models.get_pretrained_cfg(name)
    said = found.classifier if found else None
    return (said,) if isinstance(said, str) else tuple(said or ())
