"""Networks of Hugging Face's transformers, with their weights, as a backbone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from medfuse import Backbone, FeatureInfo, ImageInfo, NamedCode, Origin, ShapeError, registry
from medfuse.core.errors import above

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medfuse.model.repository import Repository

REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")
SCALED = ("unit", "window", "windows")  # ways to bring an image to [0, 1]
NEITHER = ((0.0,), (1.0,))  # mean and std that change nothing


def _placed(name: Any) -> Any:
    """A folder by its whole path, where it is one: relative to the pipeline's file, as any path in it."""
    if not isinstance(name, str) or not name:
        return name
    path = Path(getattr(name, "base", ""), Path(name).expanduser())
    if path.is_dir() or name.startswith(("/", "./", "../", "~")):
        return os.path.abspath(path)
    if not REPOSITORY.fullmatch(name):
        raise ValueError(f"{name!r} is no folder that is there, and no OWNER/REPOSITORY of huggingface.co")
    return str(name)


Name = Annotated[str, BeforeValidator(_placed)]
Numbers = Annotated[tuple[float, ...], Field(min_length=1)]


class HuggingFace(Backbone):
    """A network of Hugging Face's transformers, with the weights of a repository or a folder.

    Features of a vision transformer are its blocks (network.….layer.0, …), tokens on the patch grid; those of
    a network in stages are stage1, stage2, … as AutoBackbone gives them. An image's values are to lie in
    [0, 1]: mean and std of the weights are applied inside. Networks have two axes; volumes go through
    `slices`.

        backbones:
          encoder: {use: huggingface, name: facebook/dinov2-small}
    """

    name: Name | None = Field(
        None, description="OWNER/REPOSITORY of huggingface.co, or a folder that save_pretrained wrote"
    )
    revision: str | None = Field(
        None, description="branch, tag or commit of the repository; a run keeps to the commit it began with"
    )
    config: dict[str, Any] | None = Field(
        None,
        description="the network, as config.json says it, in place of that of `name`; without `name` it "
        "starts from fresh weights",
    )
    channels: Literal["each", "repeat", "first"] | None = Field(
        None,
        description="how the network sees an image of another number of channels than its own: `each` in "
        "turn, their maps side by side; their mean, repeated (`repeat`); the `first` so many. One channel is "
        "repeated in any case",
    )
    mean: Numbers | None = Field(
        None, description="of each channel, taken off; that of the weights if not given"
    )
    std: Numbers | None = Field(
        None, description="of each channel, divided by; that of the weights if not given"
    )
    license: str | None = Field(None, description="of the weights; that of their model card if not given")
    local_files_only: bool = Field(False, description="take what is in the hub's cache, and ask no network")

    @model_validator(mode="after")
    def _is_some_network(self) -> Self:
        if self.name is None and self.config is None:
            raise ValueError("give `name`, a repository or a folder, or `config`, for fresh weights")
        if (self.mean is None) != (self.std is None):
            raise ValueError("give both of mean and std, or neither")
        if self.std is not None and not all(one > 0 for one in self.std):
            raise ValueError("numbers of std are above 0")
        return self

    def named_code(self) -> Iterable[NamedCode]:
        """From a stranger's file, only what is written in it and of a known family is made."""
        from medfuse_huggingface.families import KNOWN

        if self.config is None:
            return [NamedCode("transformers:AutoConfig.from_pretrained", {"name": self.name})]
        if self.config.get("model_type") in KNOWN:
            return []
        return [NamedCode("transformers:AutoModel.from_config", self.config)]

    def features(self, image: ImageInfo) -> Sequence[FeatureInfo]:
        if around := self._by_channel(image):
            with above("of"):
                return around.features(image)
        from medfuse_huggingface.survey import find_features

        return find_features(self._said(), self._normalised(), self._fitting(image))

    def build(self, image: ImageInfo) -> nn.Module:
        if around := self._by_channel(image):
            with above("of"):
                return around.build(image)
        from medfuse_huggingface.net import build

        return build(self._said(), self._normalised(), self._fitting(image))

    def origin(self) -> Origin | None:
        files = self._files()
        if files is None:
            return None
        license_ = files.license() if self.license is None else self.license
        return Origin(files.source(), license_, SCALED if self._normalised() else ())

    def weights(self, image: ImageInfo) -> Mapping[str, Tensor]:
        files = self._files()
        if files is None:
            return {}
        if around := self._by_channel(image):
            with above("of"):
                return around.weights(image)
        from medfuse_huggingface.weights import read_weights

        return read_weights(files, self._said(), self._fitting(image))

    def pinned(self) -> Backbone:
        files = self._files()
        mean, std = self._normalised() or (NEITHER if files else (None, None))
        return self.model_copy(
            update={
                "revision": files.commit() if files else self.revision,
                "config": self._said(),
                "mean": mean,
                "std": std,
                "license": files.license() if files and self.license is None else self.license,
            }
        )

    def _files(self) -> Repository | None:
        from medfuse.model.repository import Repository

        if self.name is None:
            return None
        return Repository(self.name, self.revision, self.local_files_only)

    def _said(self) -> dict[str, Any]:
        """The configuration in plain words, every one of them known to its class. Raises CheckpointError."""
        from medfuse_huggingface.configs import of_file, of_hand

        if self.config is not None:
            return of_hand(self.config)
        files = self._files()
        assert files is not None, "validated above"
        return of_file(files)

    def _normalised(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and std of each channel, where there are any."""
        if self.mean is not None and self.std is not None:
            return None if (self.mean, self.std) == NEITHER else (self.mean, self.std)
        files = self._files()
        return files.normalization() if files else None

    def _by_channel(self, image: ImageInfo) -> Backbone | None:
        """The same inside a view that brings the image's channels to the network's; None where they fit."""
        if self.channels is None:
            return None
        from medfuse_huggingface.configs import channels_of

        alone = self.model_copy(update={"channels": None})
        number = channels_of(self._said())
        view = registry.get(Backbone.group, "view")(of=alone, channels=self.channels, sees=number)
        assert isinstance(view, Backbone)
        return view

    def _fitting(self, image: ImageInfo) -> ImageInfo:
        """Raises ShapeError where the network cannot see such an image."""
        from medfuse_huggingface.configs import channels_of

        if image.dims != 2:
            raise ShapeError(
                "the network has two axes, and the patch three; give it slices: "
                "{use: slices, of: {use: huggingface, …}}"
            )
        number = channels_of(self._said())
        if image.channels not in (1, number):
            raise ShapeError(
                f"the network sees {number} channels, and is given {image.channels}; say how, by "
                "`channels: each` (one after the other, their maps side by side), `channels: repeat` (their "
                f"mean) or `channels: first` (the first {number})"
            )
        return image
