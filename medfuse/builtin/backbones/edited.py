"""Another backbone with some of its layers changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pydantic import Field

from medfuse import FeatureInfo, ImageInfo
from medfuse.builtin.nets.edits import Edit
from medfuse.core.errors import below
from medfuse.core.named import NamedCode
from medfuse.model.around import Around
from medfuse.registry import BackboneField

if TYPE_CHECKING:
    from torch import Tensor, nn


class Edited(Around):
    """Another backbone whose layers are exchanged, removed or added to.

    Of layers inside each other that a glob matches, the outermost changes. Features are those of the other
    backbone that are left, with the channels and strides that a trial pass finds.

        backbones:
          encoder:
            use: edited
            of: {use: resnet, depth: 18}
            edits:
              - {replace: "*bn?", by: torch.nn.GroupNorm, arguments: {num_groups: 8, num_channels: $channels}}
              - {remove: layer4}
              - {insert_after: layer2, module: torch.nn.Dropout3d, arguments: {p: 0.1}}
    """

    of: BackboneField = Field(description="the backbone to change: its `use:` and parameters")
    edits: tuple[Edit, ...] = Field(min_length=1, description="changes, made one after the other")

    def named_code(self) -> Iterable[NamedCode]:
        return (call for edit in self.edits for call in edit.named_code())

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        from medfuse.builtin.nets.surgery import find_edited

        removed = [edit.remove for edit in self.edits if edit.remove]
        with below("of"):
            features = self.of.features(image)
        left = {f.name for f in features if not any(fnmatchcase(f.name, glob) for glob in removed)}
        return [f for f in find_edited(lambda: self._other(image), self.edits, image) if f.name in left]

    def build(self, image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.surgery import edited

        return edited(self._other(image), self.edits)

    def weights(self, image: ImageInfo) -> Mapping[str, Tensor]:
        """Those of layers that are left as they were."""
        from medfuse.builtin.nets.surgery import left_alone

        found = super().weights(image)
        left = left_alone(lambda: self._other(image), self.edits) if found else set()
        return {name: tensor for name, tensor in found.items() if name in left}

    def _other(self, image: ImageInfo) -> nn.Module:
        with below("of"):
            return self.of.build(image)
