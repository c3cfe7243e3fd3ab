"""Networks of timm, with their weights, as a backbone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from medfuse import Backbone, FeatureInfo, ImageInfo, NamedCode, Origin
from medfuse.core.errors import above
from medfuse.model.around import seen_by
from medfuse.model.pictures import (
    NEITHER,
    SCALED,
    Channels,
    License,
    LocalFilesOnly,
    Mean,
    Normalization,
    Std,
    normalization,
    refuse_half,
    refuse_unlike,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medfuse_timm.sources import Source

HUB = "hf-hub:"
NAME = rf"^({HUB}[\w.-]+/[\w.-]+(@[\w./-]+)?|[\w.-]+)$"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
OWN = (
    "num_classes",
    "features_only",
    "out_indices",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
)
ELSEWHERE = ("checkpoint_path", "cache_dir", "model_name", "scriptable", "exportable", "no_jit")


def _placed(given: Any) -> Any:
    """A file by its whole path, where it is one: relative to the pipeline's file, as any path in it."""
    if not isinstance(given, str) or not given:
        return given
    path = Path(getattr(given, "base", ""), Path(given).expanduser())
    if path.is_file() or given.startswith(("/", "./", "../", "~")) or given.endswith(FILES):
        return os.path.abspath(path)
    if not REPOSITORY.fullmatch(given):
        raise ValueError(
            f"{given!r} is no file that is there, and no OWNER/REPOSITORY; write true for timm's own weights"
        )
    return str(given)


Weights = Annotated[bool | str, BeforeValidator(_placed)]


class Timm(Backbone):
    """A network of timm, by its name there, with weights of its own, of a repository or of a file.

    Features are those that timm lists: the blocks of a vision transformer (network.blocks.0, …), tokens on
    the patch grid; the stages of a convolutional network (network.layer1, …). Of a network that brings
    weights an image's values are to lie in [0, 1]: their mean and std are applied inside; one without weights
    is made for the image's channels. Networks have two axes; volumes go through `slices`.

        backbones:
          encoder: {use: timm, name: vit_small_patch14_dinov2, pretrained: true}
    """

    name: str = Field(
        pattern=NAME,
        description="as timm.list_models has it, with the tag of its weights where there are several "
        "(NAME.TAG); or hf-hub:OWNER/REPOSITORY[@REVISION]",
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of its constructor, such as drop_path_rate"
    )
    pretrained: Weights = Field(
        False,
        description="weights to start from: true for those that timm has for this name, a file (safetensors "
        "or a state dict), or OWNER/REPOSITORY[@REVISION]",
    )
    channels: Channels = None
    mean: Mean = None
    std: Std = None
    license: License = None
    local_files_only: LocalFilesOnly = False

    @field_validator("parameters")
    @classmethod
    def _are_of_the_network(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        if others := [key for key in parameters if key in (*OWN, *ELSEWHERE)]:
            raise ValueError(
                f"{others[0]} is no parameter of the network; ask for weights by `pretrained`, and for maps "
                "by the taps"
            )
        return parameters

    @model_validator(mode="after")
    def _says_both(self) -> Self:
        refuse_half(self.mean, self.std)
        return self

    def named_code(self) -> Iterable[NamedCode]:
        """timm's own networks compute and do no more; what a repository names is not known before."""
        return [NamedCode("timm:create_model", {"name": self.name})] if self.name.startswith(HUB) else []

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        if around := self._by_channel():
            with above("of"):
                return around.features(image)
        from medfuse_timm.survey import find_features

        source = self._source()
        return find_features(source.name, source.parameters, self._number(image), self._normalised(), image)

    def build(self, image: ImageInfo) -> nn.Module:
        if around := self._by_channel():
            with above("of"):
                return around.build(image)
        from medfuse_timm.net import build

        source = self._source()
        return build(source.name, source.parameters, self._number(image), self._normalised(), image)

    def origin(self) -> Origin | None:
        source = self._source()
        if source.weights is None:
            return None
        license_ = source.license if self.license is None else self.license
        return Origin(source.origin(), license_, SCALED if self._normalised() else ())

    def weights(self, image: ImageInfo) -> Mapping[str, Tensor]:
        source = self._source()
        if source.weights is None:
            return {}
        if around := self._by_channel():
            with above("of"):
                return around.weights(image)
        from medfuse_timm.weights import read_weights

        return read_weights(source, self._number(image), image)

    def pinned(self) -> Backbone:
        source = self._source()
        brings = source.weights is not None
        mean, std = self._normalised() or (NEITHER if brings else (None, None))
        return self.model_copy(
            update={
                "name": source.name,
                "parameters": source.parameters,
                "pretrained": source.pinned(),
                "mean": mean,
                "std": std,
                "license": source.license or None if self.license is None else self.license,
            }
        )

    def _source(self) -> Source:
        from medfuse_timm.sources import find_source

        return find_source(self.name, self.parameters, self.pretrained, self.local_files_only)

    def _normalised(self) -> Normalization | None:
        """Mean and std of each channel, where there are any."""

        def of_weights() -> Normalization | None:
            source = self._source()
            return source.normalization if source.weights is not None else None

        return normalization(self.mean, self.std, of_weights)

    def _by_channel(self) -> Backbone | None:
        """The same, shown images of any number of channels; None where it is not said how."""
        if self.channels is None:
            return None
        alone = self.model_copy(update={"channels": None})
        return seen_by(alone, self.channels, self._source().channels or 3)

    def _number(self, image: ImageInfo) -> int:
        """Channels that the network sees. Raises ShapeError where it cannot see such an image."""
        number = self._source().channels or image.channels
        refuse_unlike(image, number, "timm")
        return number
