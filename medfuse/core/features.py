"""Feature maps as values: what an image or an intermediate output is, before any tensor exists.

Axis order, once and for all of medfuse: tensors are (batch, channels, *spatial), arrays of one case
(channels, *spatial), and the spatial axes of a prepared case run (x, y, z) and grow towards
the patient's right, front and head ("RAS+", as in nibabel and MONAI). Every per-axis tuple
(shape, patch_size, stride, spacing_mm) has that order. A 2-D network sees (x, y) slices.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImageInfo:
    """What a network is given: `channels`, the window it works on in voxels, and their size in mm."""

    channels: int
    patch_size: tuple[int, ...]
    spacing_mm: tuple[float, ...]

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.patch_size)


@dataclass(frozen=True)
class TokenLayout:
    """How a layer's (batch, tokens, channels) is a map: a token for each place, last axis fastest.

    `prefix`: tokens in front that have no place, as class and register tokens. The grid is the image's size
    divided by the map's stride.
    """

    prefix: int = 0


@dataclass(frozen=True)
class FeatureInfo:
    """A feature map: its name, its channels, and its stride per axis relative to the network's input.

    What a layer makes is (batch, channels, *spatial), or, as in transformers, (batch, *spatial, channels)
    where `channels_last`, or a sequence of tokens where `tokens` says how these lie. A tap strategy hands it
    on as it is, and the graph turns it: there every map is (batch, channels, *spatial).
    """

    name: str
    channels: int
    stride: tuple[int, ...]
    channels_last: bool = False
    tokens: TokenLayout | None = None

    @property
    def dims(self) -> int:
        return len(self.stride)

    def named(self, name: str) -> "FeatureInfo":
        return replace(self, name=name)

    def in_graph(self, backbone: str) -> "FeatureInfo":
        """What a tap is in the graph, by its name there: BACKBONE.LAYER."""
        return replace(self, name=f"{backbone}.{self.name}", channels_last=False, tokens=None)

    def channels_first(self, made: "Tensor") -> "Tensor":
        """What the layer makes as the graph has it: (batch, channels, *spatial)."""
        return made.movedim(-1, 1) if self.channels_last else made

    def size(self, image_size: tuple[int, ...]) -> tuple[int, ...]:
        """Voxels per axis for an input of `image_size`: rounded up, as padded convolutions do."""
        return tuple(-(-n // s) for n, s in zip(image_size, self.stride))
