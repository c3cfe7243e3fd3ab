"""Another backbone that sees a part of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from medfuse import FeatureInfo, ImageInfo, ShapeError
from medfuse.core.errors import below
from medfuse.model.around import Around, Way
from medfuse.registry import BackboneField

if TYPE_CHECKING:
    from torch import Tensor, nn

Channels = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class View(Around):
    """Another backbone, given some of the image's channels or its middle, or several such views in turn.

    Several views share their weights: one network sees each in turn (siamese, Bromley et al. 1993), and a
    feature is called VIEW.LAYER. Of a crop the maps are brought back to the whole patch, zero around it.

    A network of a set number of channels, as the 3 of ImageNet's weights, sees an image of any number by
    `each`: every channel in turn, repeated as often as the network `sees` channels; their maps lie side by
    side in one, which the fusion projects, as it is trained where the backbone is frozen. By `repeat`: their
    mean, repeated. By `first`: the first so many, or the very first, repeated, where there are fewer.

        backbones:
          anatomy: {use: view, of: {use: resnet, depth: 18}, channels: [0]}
          phases: {use: view, of: {use: unet_encoder}, channels: {native: [0], venous: [1]}}
          middle: {use: view, of: {use: unet_encoder}, crop: [32, 32, 16]}
          sequences: {use: view, of: {use: efficientnet}, channels: each, sees: 3}
    """

    of: BackboneField = Field(description="the backbone that looks: its `use:` and parameters")
    channels: Channels | Annotated[dict[str, Channels], Field(min_length=1)] | Way | None = Field(
        None,
        description="numbers of the channels to see, from 0; or views by name, each as many; none means all; "
        "or how all of them reach a network of another number: `each`, `repeat` or `first`",
    )
    sees: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="channels of the other backbone, for `each`, `repeat` and `first`; 1 where not given, or "
        "3 where it takes no image of one",
    )
    crop: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="voxels per axis about the middle of the patch; none means the whole patch"
    )

    @model_validator(mode="after")
    def _sees_in_some_way(self) -> Self:
        if self.sees is not None and not isinstance(self.channels, str):
            raise ValueError("`sees` goes with channels: each, repeat or first; give one, or leave it out")
        return self

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        seen = self._seen(image)
        with below("of"):
            inner = self.of.features(seen)
        if self.channels == "each":
            return [
                FeatureInfo(f.name, image.channels * f.channels, f.stride, image_level=f.image_level)
                for f in inner
            ]
        found = [
            FeatureInfo(_path(view, f.name), f.channels, f.stride, image_level=f.image_level)
            for f in inner
            for view in self._views(image)
        ]
        return sorted(found, key=lambda f: f.coarseness)

    def build(self, image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.view import View as Network

        seen = self._seen(image)
        with below("of"):
            inner, features = self.of.build(seen), self.of.features(seen)
        return Network(
            inner,
            features,
            self._views(image),
            self.crop,
            joined=self.channels == "each",
            mean=self.channels == "repeat",
        )

    def weights(self, image: ImageInfo) -> Mapping[str, Tensor]:
        found = super().weights(self._seen(image))
        return {f"inner.backbone.{name}": tensor for name, tensor in found.items()}

    def _views(self, image: ImageInfo) -> Mapping[str, Sequence[int]]:
        """Channels of each view, of their mean where they are repeated; a single one has no name."""
        if isinstance(self.channels, dict):
            return self.channels
        if not isinstance(self.channels, str):
            return {"": self.channels or range(image.channels)}
        number = self._number(image)
        if self.channels == "each":
            return {str(c): (c,) * number for c in range(image.channels)}
        enough = self.channels == "first" and image.channels >= number
        return {"": range(number) if enough else (0,) * number}

    def _number(self, image: ImageInfo) -> int:
        """Channels that the other backbone sees. Raises ShapeError where it takes neither 1 nor 3."""
        if self.sees is not None:
            return self.sees
        one = replace(image, channels=1, patch_size=tuple(self.crop or image.patch_size))
        try:
            self.of.features(one)
            return 1
        except ShapeError:
            with below("of"):
                self.of.features(replace(one, channels=3))
            return 3

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
