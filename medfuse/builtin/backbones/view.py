"""Another backbone that sees a part of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from medfuse import Backbone, FeatureInfo, ImageInfo, ShapeError
from medfuse.core.errors import below
from medfuse.registry import BackboneField

if TYPE_CHECKING:
    from torch import nn

Channels = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class View(Backbone):
    """Another backbone, given some of the image's channels or its middle, or several such views in turn.

    Several views share their weights: one network sees each in turn (siamese, Bromley et al. 1993), and a
    feature is called VIEW.LAYER. Of a crop the maps are brought back to the whole patch, zero around it.

        backbones:
          anatomy: {use: view, of: {use: resnet, depth: 18}, channels: [0]}
          phases: {use: view, of: {use: unet_encoder}, channels: {native: [0], venous: [1]}}
          middle: {use: view, of: {use: unet_encoder}, crop: [32, 32, 16]}
    """

    of: BackboneField = Field(description="the backbone that looks: its `use:` and parameters")
    channels: Channels | Annotated[dict[str, Channels], Field(min_length=1)] | None = Field(
        None,
        description="numbers of the channels to see, from 0; or views by name, each as many; none means all",
    )
    crop: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="voxels per axis about the middle of the patch; none means the whole patch"
    )

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        seen = self._seen(image)
        with below("of"):
            inner = self.of.features(seen)
        found = [
            FeatureInfo(_path(view, f.name), f.channels, f.stride)
            for f in inner
            for view in self._views(image)
        ]
        return sorted(found, key=lambda f: prod(f.stride))

    def build(self, image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.view import View as Network

        seen = self._seen(image)
        with below("of"):
            inner, features = self.of.build(seen), self.of.features(seen)
        return Network(inner, features, self._views(image), self.crop)

    def _views(self, image: ImageInfo) -> Mapping[str, Sequence[int]]:
        """Channels of each view; a single one has no name."""
        if isinstance(self.channels, dict):
            return self.channels
        return {"": self.channels or range(image.channels)}

    def _seen(self, image: ImageInfo) -> ImageInfo:
        """What the inner backbone is given. Raises ShapeError."""
        views = self._views(image)
        if beyond := [c for view in views.values() for c in view if c >= image.channels]:
            raise ShapeError(
                f"channels: the image has {image.channels}, numbered from 0, and none is {beyond[0]}"
            )
        if len({len(view) for view in views.values()}) > 1:
            counts = ", ".join(f"{name} has {len(view)}" for name, view in views.items())
            raise ShapeError(f"channels: one network sees all views, so each has as many: {counts}")
        crop = self.crop or image.patch_size
        if len(crop) != image.dims or any(c > n for c, n in zip(crop, image.patch_size)):
            raise ShapeError(f"crop: {[*crop]} is no part of a patch of {[*image.patch_size]} voxels")
        return replace(image, channels=len(next(iter(views.values()))), patch_size=tuple(crop))


def _path(view: str, layer: str) -> str:
    return f"{view}.{layer}" if view else layer
