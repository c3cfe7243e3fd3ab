"""The vision transformer of volumes that 3DINO pretrains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from medfuse import Backbone, FeatureInfo, ImageInfo, ShapeError, TokenLayout
from medfuse.core.topology import given_or, token_grid

if TYPE_CHECKING:
    from torch import nn

Count = Annotated[int, Field(ge=1)]
Depth = Annotated[int, Field(ge=1, le=100)]

SIZES = {"B": (768, 12, 12), "L": (1024, 24, 16)}  # channels, blocks and attention heads


class Dino3D(Backbone):
    """A vision transformer with tokens of 16³ voxels, as 3DINO-ViT (Xu et al. 2025).

    Features are the tokens of its blocks, blocks.0, blocks.1, …: maps of stride 16. It is meant for
    `model.transfer` of weights that were pretrained, frozen; 3DINO's own are CC BY-NC-ND 4.0, and want
    percentiles 0.05 to 99.95 at -1 to 1.

        backbones:
          encoder: {use: dino3d, size: L}
    """

    size: Literal["B", "L"] = Field("L", description="channels, blocks and heads")
    channels: Literal["auto"] | Count = Field("auto", description="of a token; those of `size` if auto")
    depth: Literal["auto"] | Depth = Field("auto", description="blocks; those of `size` if auto")
    heads: Literal["auto"] | Count = Field("auto", description="attention heads; those of `size` if auto")
    patch: int = Field(16, ge=1, description="voxels of a token along each axis")
    grid: Count | tuple[Count, Count, Count] = Field(
        7,
        description="tokens along x, y and z whose positions were learned, 112 / 16 in 3DINO; they are "
        "interpolated for other grids",
    )

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        token_grid("dino3d", image, self.patch, axes=(3,))
        channels, depth, heads = given_or(SIZES[self.size], self.channels, self.depth, self.heads)
        if channels % heads:
            raise ShapeError(
                f"dino3d: {channels} channels cannot be parted into {heads} heads; give a multiple"
            )
        layout = TokenLayout(prefix=1)
        return [FeatureInfo(f"blocks.{i}", channels, (self.patch,) * 3, tokens=layout) for i in range(depth)]

    def build(self, image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets import vit

        channels, depth, heads = given_or(SIZES[self.size], self.channels, self.depth, self.heads)
        return vit.Dino(
            image.channels,
            channels=channels,
            depth=depth,
            heads=heads,
            patch=self.patch,
            grid=(self.grid,) * 3 if isinstance(self.grid, int) else self.grid,
        )
