"""Networks of Hugging Face's transformers, with their weights, as a backbone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

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

    from medfuse.model.repository import Repository

REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


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
    channels: Channels = None
    mean: Mean = None
    std: Std = None
    license: License = None
    local_files_only: LocalFilesOnly = False

    @model_validator(mode="after")
    def _is_some_network(self) -> Self:
        if self.name is None and self.config is None:
            raise ValueError("give `name`, a repository or a folder, or `config`, for fresh weights")
        refuse_half(self.mean, self.std)
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
        if around := self._by_channel():
            with above("of"):
                return around.features(image)
        from medfuse_huggingface.survey import find_features

        return find_features(self._said(), self._normalised(), self._fitting(image))

    def build(self, image: ImageInfo) -> nn.Module:
        if around := self._by_channel():
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
        if around := self._by_channel():
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

    def _normalised(self) -> Normalization | None:
        """Mean and std of each channel, where there are any."""

        def of_weights() -> Normalization | None:
            files = self._files()
            return files.normalization() if files else None

        return normalization(self.mean, self.std, of_weights)

    def _by_channel(self) -> Backbone | None:
        """The same, shown images of any number of channels; None where it is not said how."""
        from medfuse_huggingface.configs import channels_of

        if self.channels is None:
            return None
        return seen_by(self.model_copy(update={"channels": None}), self.channels, channels_of(self._said()))

    def _fitting(self, image: ImageInfo) -> ImageInfo:
        """Raises ShapeError where the network cannot see such an image."""
        from medfuse_huggingface.configs import channels_of

        refuse_unlike(image, channels_of(self._said()), "huggingface")
        return image
