"""Any importable torch module as a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from medfuse import Backbone, FeatureInfo, ImageInfo

if TYPE_CHECKING:
    from torch import nn


class Module(Backbone):
    """A class of any package, such as one of MONAI's or your own; its features are found by a trial pass.

    Every layer whose output is a map of the image at a whole stride is a feature, finest first.

        backbones:
          encoder:
            use: module
            target: monai.networks.nets:SegResNet
            parameters: {spatial_dims: 3, in_channels: 1, out_channels: 2}
    """

    target: str = Field(pattern=r"^[\w.]+:\w+$", description="package.module:Class, a torch.nn.Module")
    parameters: dict[str, Any] = Field(default_factory=dict, description="its arguments")

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        from medfuse.builtin.nets.probe import find_features

        return find_features(lambda: self.build(image), image)

    def build(self, image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.probe import construct

        return construct(self.target, self.parameters)
