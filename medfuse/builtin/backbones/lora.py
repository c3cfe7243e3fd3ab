"""Another backbone, frozen, some of whose layers learn small changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from medfuse import FeatureInfo, ImageInfo
from medfuse.core.errors import below
from medfuse.model.around import Around
from medfuse.registry import BackboneField

if TYPE_CHECKING:
    from torch import nn


class Lora(Around):
    """Another backbone that stays as it is, but for low-rank changes of some layers (LoRA, Hu et al. 2022).

    y = W x + alpha / rank · B A x for linear layers and convolutions; A and B alone learn, and B is 0 at
    first, so that the network begins as the other one to the last bit. Features are those of the other.

        backbones:
          encoder: {use: lora, of: {use: swin_unetr}, rank: 8, on: [qkv]}
    """

    of: BackboneField = Field(description="the backbone to adapt: its `use:` and parameters")
    rank: int = Field(8, ge=1, le=1024, description="channels between A and B")
    on: tuple[str, ...] = Field(
        ("qkv",),
        min_length=1,
        description="layers to adapt, by path, by the end of one, or by glob: `qkv`, `*.query`",
    )
    alpha: float | None = Field(
        None,
        gt=0,
        le=65536,
        description="changes are scaled by alpha / rank; as large as `rank` where not given",
    )

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        from medfuse.builtin.nets.lora import refuse_idle

        with below("of"):
            features = self.of.features(image)
        refuse_idle(lambda: self.build(image), self.on, image)
        return features

    def build(self, image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.lora import adapted

        with below("of"):
            network = self.of.build(image)
        return adapted(network, self.on, self.rank, (self.alpha or self.rank) / self.rank)
