"""A 2-D backbone on the slices of a volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from medfuse import Backbone, FeatureInfo, ImageInfo, ShapeError
from medfuse.core.errors import above, below
from medfuse.model.around import Around, Way, seen_by
from medfuse.model.pictures import OtherChannels
from medfuse.registry import BackboneField

if TYPE_CHECKING:
    from torch import Tensor, nn


class Slices(Around):
    """A 2-D backbone that sees each (x, y) slice with its neighbours as further channels: 2.5-D.

    Features are those of the 2-D backbone, stacked along z again, with stride 1 there; so decoders need
    nothing new, and 2-D weights can be transferred. At the ends of a patch its last slice stands in for those
    beyond. Of an image of several channels the 2-D backbone sees the slices of all, or by `channels` those of
    one at a time, as `view` does it.

        sample: {patch_size: [192, 192, 4]}
        backbones:
          encoder: {use: slices, of: {use: resnet, depth: 18}, neighbours: 1}
    """

    of: BackboneField = Field(description="the 2-D backbone: its `use:` and parameters")
    neighbours: int = Field(1, ge=0, description="slices that are seen on each side of one")
    channels: Way | None = Field(
        None,
        description="of an image of several: `each` by itself, their maps side by side; their mean "
        "(`repeat`); the `first`; none means all at once",
    )

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        if self.channels:
            with above("of"):
                return self._by_channel(self.channels).features(image)
        flat = self._slice(image)
        try:
            with below("of"):
                inner = self.of.features(flat)
        except OtherChannels as error:  # which counts neighbours as channels
            raise self._in_words_of(image, error) from error
        strides = [flat.patch_size if f.image_level else f.stride for f in inner]  # of a slice: its one voxel
        return [FeatureInfo(f.name, f.channels, (*stride, 1)) for f, stride in zip(inner, strides)]

    def build(self, image: ImageInfo) -> nn.Module:
        if self.channels:
            with above("of"):
                return self._by_channel(self.channels).build(image)
        from medfuse.builtin.nets.slices import Slices as Network

        seen = self._slice(image)
        with below("of"):
            inner, features = self.of.build(seen), self.of.features(seen)
        return Network(inner, features, self.neighbours)

    def weights(self, image: ImageInfo) -> Mapping[str, Tensor]:
        if self.channels:
            with above("of"):
                return self._by_channel(self.channels).weights(image)
        found = super().weights(self._slice(image))
        return {f"inner.backbone.{name}": tensor for name, tensor in found.items()}

    def _by_channel(self, way: Way) -> Backbone:
        """The same, seeing images of one channel."""
        return seen_by(self.model_copy(update={"channels": None}), way, channels=1)

    def _in_words_of(self, image: ImageInfo, error: OtherChannels) -> ShapeError:
        number = 2 * self.neighbours + 1
        given = f": {image.channels} of the image, each of {number} slices" if number > 1 else ""
        if image.channels > 1:
            return OtherChannels(error.sees, number * image.channels, given)
        fitting = (error.sees - 1) // 2
        return ShapeError(
            f"the network sees {error.sees} channels, and is given {number} slices; set `neighbours` to "
            f"{fitting}, or to 0, and it sees one slice {error.sees} times"
        )

    def _slice(self, image: ImageInfo) -> ImageInfo:
        """What the 2-D backbone is given. Raises ShapeError."""
        if image.dims != 3:
            raise ShapeError(
                "slices works on 3-D patches; give sample.patch_size three numbers, such as [192, 192, 4]"
            )
        channels = image.channels * (2 * self.neighbours + 1)
        return ImageInfo(channels, image.patch_size[:2], image.spacing_mm[:2])
