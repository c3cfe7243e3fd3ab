"""Feature maps as values: what an image or an intermediate output is, before any tensor exists.

Axis order, once and for all of medfuse: tensors are (batch, channels, *spatial), arrays of one case
(channels, *spatial), and the spatial axes of a prepared case run (x, y, z) and grow towards
the patient's right, front and head ("RAS+", as in nibabel and MONAI). Every per-axis tuple
(shape, patch_size, stride, spacing_mm) has that order. A 2-D network sees (x, y) slices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from medfuse.core.errors import ShapeError
from medfuse.core.text import by

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

    prefix: tokens in front that have no place, as class and register tokens. The grid is the image's size
    divided by the map's stride. window: places per axis of windows that are batch items of their own, each
    (tokens, channels) or (*window, channels), as inside Swin's and SAM's attention; `shift`: how many places
    the grid was rolled on before it was cut into them. unrolled: strides per axis by which the grid was taken
    apart one after the other, places of the same remainder together, as in Hiera.
    """

    prefix: int = 0
    window: tuple[int, ...] = ()
    shift: tuple[int, ...] = ()
    unrolled: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class KnownTokens:
    """What somebody says of a network's tokens; None is found out: tokens in front, voxels of a patch.

    A patch size of one number is that of every axis.
    """

    prefix: int | None = None
    patch_size: int | tuple[int, ...] | None = None

    @property
    def is_said(self) -> bool:
        return self.prefix is not None or self.patch_size is not None


@dataclass(frozen=True)
class FeatureInfo:
    """A feature map: its name, its channels, and its stride per axis relative to the network's input.

    What a layer makes is (batch, channels, *spatial), or, as in transformers, (batch, *spatial, channels)
    where `channels_last`, or a sequence of tokens where `tokens` says how these lie. A tap strategy hands it
    on as it is, and the graph turns it: there every map is (batch, channels, *spatial).

    image_level: that it says one thing of the whole image whatever its size, as a pooled output, made as
    (batch, channels) or as a map of one voxel. In the graph it is a map of one voxel whose stride is the
    patch, and is spread over any grid that it is brought to.
    """

    name: str
    channels: int
    stride: tuple[int, ...]
    channels_last: bool = False
    tokens: TokenLayout | None = None
    image_level: bool = False

    @property
    def dims(self) -> int:
        return len(self.stride)

    @property
    def coarseness(self) -> tuple[bool, int]:
        """By which maps are ordered, finest first; what is image-level comes last."""
        return self.image_level, prod(self.stride)

    def named(self, name: str) -> "FeatureInfo":
        return replace(self, name=name)

    def in_graph(self, backbone: str) -> "FeatureInfo":
        """What a tap is in the graph, by its name there: BACKBONE.LAYER."""
        return replace(self, name=f"{backbone}.{self.name}", channels_last=False, tokens=None)

    def as_map(self, made: "Tensor", image_size: Sequence[int]) -> "Tensor":
        """What the layer makes of an image as the graph has it: (batch, channels, *spatial).

        Raises ShapeError where that is no such map.
        """
        if self.image_level and made.ndim == 2:
            return made.reshape(*made.shape, *(1,) * self.dims)
        if self.tokens is None:
            return made.movedim(-1, 1) if self.channels_last else made
        if self.tokens.window:
            return self._joined(made, self.tokens, image_size)
        if made.ndim != 3:
            raise ShapeError(f"{self.name} makes {by(made.shape)}, which is no (batch, tokens, channels)")
        placed = made[:, self.tokens.prefix :]
        grid = self.grid(placed.shape[1], image_size)
        if self.tokens.unrolled:
            return _rolled(placed, grid, self.tokens.unrolled)
        return placed.transpose(1, 2).unflatten(2, grid)

    def size(self, image_size: Sequence[int]) -> tuple[int, ...]:
        """Voxels per axis for an input of `image_size`: rounded up, as padded convolutions do."""
        if self.image_level:
            return (1,) * self.dims
        return tuple(-(-n // s) for n, s in zip(image_size, self.stride))

    def grid(self, places: int, image_size: Sequence[int]) -> tuple[int, ...]:
        """The size per axis of a map of so many places. Raises ShapeError where it has another number."""
        for found in grids(image_size, self.stride):
            if prod(found) == places:
                return found
        prefix = self.tokens.prefix if self.tokens else 0
        raise ShapeError(
            f"{self.name} makes {places + prefix} tokens of an image of {by(image_size)} voxels, and "
            f"{by(self.size(image_size))} places at stride {by(self.stride)} after {prefix} in front are "
            f"{prod(self.size(image_size)) + prefix}"
        )

    def _joined(self, made: "Tensor", tokens: TokenLayout, image_size: Sequence[int]) -> "Tensor":
        """Windows put together again, and what was added to fill the last ones cut off."""
        grid, window = self.size(image_size), tokens.window
        counts = tuple(-(-n // w) for n, w in zip(grid, window))
        channels = made.shape[-1]
        if prod(made.shape[1:-1]) != prod(window) or made.shape[0] % prod(counts):
            raise ShapeError(
                f"{self.name} makes {by(made.shape)}, no {by(counts)} windows of {by(window)} places"
            )
        dims = len(window)
        apart = made.reshape(-1, *counts, *window, channels)
        order = [axis for pair in zip(range(1, 1 + dims), range(1 + dims, 1 + 2 * dims)) for axis in pair]
        whole = apart.permute(0, *order, 1 + 2 * dims)
        whole = whole.reshape(-1, *(c * w for c, w in zip(counts, window)), channels)
        if any(tokens.shift):
            whole = whole.roll(tokens.shift, tuple(range(1, 1 + dims)))
        for axis, n in enumerate(grid):
            whole = whole.narrow(1 + axis, 0, n)
        return whole.movedim(-1, 1)


def grids(image_size: Sequence[int], stride: Sequence[int]) -> list[tuple[int, ...]]:
    """The sizes that a map of that stride may have: rounded up, as padding does, or down."""
    up = tuple(-(-n // s) for n, s in zip(image_size, stride))
    return [*dict.fromkeys((up, tuple(n // s for n, s in zip(image_size, stride))))]


def _rolled(placed: "Tensor", grid: tuple[int, ...], unrolled: tuple[tuple[int, ...], ...]) -> "Tensor":
    """(batch, tokens, channels) whose order is by remainders, the first stride's first, as a map."""
    dims = len(grid)
    left = tuple(n // prod(strides) for n, *strides in zip(grid, *unrolled))
    steps = [*unrolled, left]
    apart = placed.unflatten(1, [n for step in steps for n in step])
    order = [1 + dims * level + axis for axis in range(dims) for level in reversed(range(len(steps)))]
    whole = apart.permute(0, *order, 1 + dims * len(steps))
    return whole.reshape(placed.shape[0], *grid, placed.shape[2]).movedim(-1, 1)
