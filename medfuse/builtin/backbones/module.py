"""Any network that can be imported as a backbone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from medfuse import Backbone, FeatureInfo, ImageInfo
from medfuse.core.named import TARGET, NamedCode, checked_target, named_in

if TYPE_CHECKING:
    from torch import nn


class Module(Backbone):
    """A class or function of any package, MONAI's or your own; its features are found by a trial pass.

    Every layer whose output is a map of the image at a whole stride is a feature, finest first. To name code
    is to run it: its package is imported, and what it names is called with `parameters`.

        backbones:
          encoder:
            use: module
            target: monai.networks.nets:SegResNet
            parameters: {spatial_dims: 3, in_channels: 1, out_channels: 2}
    """

    target: str = Field(
        pattern=TARGET, description="package.module:name, a class or function that makes a torch.nn.Module"
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="its arguments; `import:package.module:name` stands for a class or function",
    )

    @field_validator("target", mode="before")
    @classmethod
    def _names_code(cls, target: Any) -> Any:
        return checked_target(target)

    def named_code(self) -> Iterable[NamedCode]:
        return [NamedCode(self.target, self.parameters), *named_in(self.parameters)]

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        from medfuse.builtin.nets.probe import find_features

        return find_features(lambda: self.build(image), image, partial=True)

    def build(self, image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.probe import construct

        return construct(self.target, self.parameters)
