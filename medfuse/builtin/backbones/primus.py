"""The transformer that nnssl pretrains."""

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

# Wald et al. 2025: channels, blocks and attention heads
SIZES = {"S": (396, 12, 6), "B": (792, 12, 12), "M": (864, 16, 12), "L": (1056, 24, 16)}


class Primus(Backbone):
    """Primus, a transformer with tokens of 8³ voxels and rotated positions (Wald et al. 2025).

    Features are the tokens of its blocks, eva.blocks.0, eva.blocks.1, …: maps of stride 8. `medfuse
    import-nnssl` writes a pipeline for weights that were pretrained; without such it learns slowly.

        backbones:
          encoder: {use: primus, size: M}
    """

    size: Literal["S", "B", "M", "L"] = Field("M", description="channels, blocks and heads")
    channels: Literal["auto"] | Count = Field("auto", description="of a token; those of `size` if auto")
    depth: Literal["auto"] | Depth = Field("auto", description="blocks; those of `size` if auto")
    heads: Literal["auto"] | Count = Field("auto", description="attention heads; those of `size` if auto")
    patch: int = Field(8, ge=1, description="voxels of a token along each axis")
    grid: Count | tuple[Count, Count, Count] = Field(
        20,
        description="tokens along x, y and z whose positions were learned, 160 / 8 in nnssl; for other grids "
        "they are interpolated",
    )
    registers: int = Field(0, ge=0, description="tokens without a place")
    layer_scale: bool = Field(False, description="a learned scale of what each block adds")
    inner_norm: bool = Field(False, description="a norm inside attention")

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        token_grid("primus", image, self.patch, axes=(3,))
        channels, depth, heads = given_or(SIZES[self.size], self.channels, self.depth, self.heads)
        if channels % heads or channels // heads % 6:
            raise ShapeError(
                f"primus: {channels} channels in {heads} heads are {channels / heads:g} each, and rotations "
                "along three axes take them in sixes; give `channels` that are a multiple of 6 · heads"
            )
        layout = TokenLayout(prefix=self.registers)
        return [
            FeatureInfo(f"eva.blocks.{i}", channels, (self.patch,) * 3, tokens=layout) for i in range(depth)
        ]

    def build(self, image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets import vit

        channels, depth, heads = given_or(SIZES[self.size], self.channels, self.depth, self.heads)
        return vit.Primus(
            image.channels,
            channels=channels,
            depth=depth,
            heads=heads,
            patch=self.patch,
            grid=(self.grid,) * 3 if isinstance(self.grid, int) else self.grid,
            registers=self.registers,
            layer_scale=self.layer_scale,
            inner_norm=self.inner_norm,
        )
