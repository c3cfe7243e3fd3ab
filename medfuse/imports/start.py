"""What weights that were trained elsewhere say of the pipeline that they belong in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from medfuse.data.settings import WindowSettings


@dataclass(frozen=True)
class Start:
    """A network that is known, and what it was trained on, in medfuse's words and axes.

    what: in a few words, for comments. backbone, transfer, tap: entries of `model` for one backbone, `tap`
    empty where what the graph names is tapped as it is. kind: `pyramid`, a map for each of several strides,
    or `tokens`, maps of one stride. spacing_mm, patch_size: that it was trained on, where that was
    fixed. multiple: of which a patch's sides must be, per axis. slices: whether it sees slices of volumes.
    normalize: a value of `preprocess.normalize`. channels: how many it saw. whole: all of `model:`, where
    the weights are of more than one backbone. notes: lines that its user should read.
    """

    what: str
    backbone: Mapping[str, Any]
    kind: Literal["pyramid", "tokens"] = "pyramid"
    transfer: Mapping[str, Any] = field(default_factory=dict)
    tap: Mapping[str, Any] = field(default_factory=dict)
    decoder: Mapping[str, Any] = field(default_factory=dict)
    spacing_mm: tuple[float, float, float] | None = None
    patch_size: tuple[int, ...] | None = None
    multiple: tuple[int, ...] = ()
    slices: bool = False
    normalize: str | WindowSettings = "auto"
    channels: int | None = None
    whole: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def model(self) -> dict[str, Any]:
        """`model:` of a pipeline, a light decoder on the backbone's maps."""
        if self.whole:
            return dict(self.whole)
        made: dict[str, Any] = {"backbones": {"encoder": dict(self.backbone)}}
        if self.transfer:
            made["transfer"] = {"encoder": dict(self.transfer)}
        if self.tap:
            made["taps"] = {"encoder": dict(self.tap)}
        if self.kind == "tokens":
            made["fusion"] = {
                "pyramid": {"use": "to_pyramid", "inputs": ["encoder.*"]},
                "decoded": {
                    "use": "unet_decoder",
                    "inputs": ["image", "pyramid.*"],
                    "channels": 16,
                    **self.decoder,
                },
            }
        else:
            made["fusion"] = {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"], **self.decoder}}
        return {**made, "head": {"input": "decoded"}}
