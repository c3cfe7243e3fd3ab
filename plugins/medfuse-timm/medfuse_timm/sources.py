"""Where a network of timm and its weights come from: timm's own tables, a repository, a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medfuse import CheckpointError, PluginError
from medfuse.core.errors import did_you_mean, lacks, reason
from medfuse.core.offline import import_offline
from medfuse.model.pictures import Normalization
from medfuse.model.repository import Repository

HUB = "hf-hub:"


@dataclass(frozen=True)
class Source:
    """A network by its name in timm, what it is made with, and its weights: a repository, a file, or none.

    channels: of the images that it was trained on, or that it is made for; None where it follows the image.
    file: the name of the weights in the repository, where it is an unusual one.
    """

    name: str
    parameters: dict[str, Any] = field(hash=False)
    weights: Repository | Path | None
    channels: int | None
    normalization: Normalization | None
    license: str
    file: str = ""

    def origin(self) -> str:
        return self.weights.source() if isinstance(self.weights, Repository) else str(self.weights)

    def pinned(self) -> bool | str:
        """The same weights for good."""
        return False if self.weights is None else self.origin()


def timm() -> Any:
    """The library. Raises PluginError where it cannot be imported, as where torchvision cannot."""
    try:
        return import_offline("timm")
    except ModuleNotFoundError as error:
        raise PluginError(f"timm {lacks(error) or f'is not there: pip install {error.name}'}") from error
    except Exception as error:  # whatever a torchvision that is not of this torch raises
        raise PluginError(
            f"timm, which imports torchvision, cannot be imported: {reason(error)}; install the torchvision "
            "that belongs to this torch (pytorch.org says which), or timm anew"
        ) from error


def find_source(
    name: str, parameters: Mapping[str, Any], pretrained: bool | str, local_files_only: bool
) -> Source:
    """Raises CheckpointError for weights that there are not, PluginError for a network that there is not."""
    about: Mapping[str, Any] = {}
    arguments = dict(parameters)
    if name.startswith(HUB):
        repository = _repository(name.removeprefix(HUB), local_files_only)
        name, about, own = _described(repository)
        arguments = {**own, **arguments}
        if pretrained is True:
            pretrained = (
                f"{repository.name}@{repository.revision}" if repository.revision else repository.name
            )
    library = timm()
    if not library.is_model(name.partition(".")[0]) and not library.is_model(name):
        near = did_you_mean(name, library.list_models())
        raise PluginError(
            f"timm {library.__version__} has no network {name!r}{near}; timm.list_models() lists them"
        )
    about = about or _pretrained_cfg(library, name)
    weights, file = _weights(name, about, pretrained, local_files_only)
    given = arguments.get("in_chans")
    trained = (about.get("input_size") or (3,))[0] if weights is not None else None
    return Source(
        name,
        arguments,
        weights,
        given if isinstance(given, int) else trained,
        _normalization(about),
        str(about.get("license") or "") or _card(weights),
        file,
    )


def _described(repository: Repository) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
    """Architecture, pretrained_cfg and arguments of a repository of timm's kind."""
    said = repository.config()
    if not isinstance(name := said.get("architecture"), str):
        raise CheckpointError(
            f"{repository.name}: its config.json names no architecture of timm; take it by "
            "`use: huggingface`, if it names a model_type"
        )
    about = said.get("pretrained_cfg", said)
    own = said.get("model_args", {})
    if not isinstance(about, Mapping) or not isinstance(own, Mapping):
        raise CheckpointError(f"{repository.name}: its config.json is not as timm writes it; take another")
    return name, about, own


def _pretrained_cfg(library: Any, name: str) -> Mapping[str, Any]:
    models = import_offline("timm.models")
    try:
        found: Any = models.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = listed_tags(library, name)
        raise CheckpointError(f"timm {library.__version__}: {error}; it has {tags}") from error
    return dict(found.to_dict()) if found else {}


def listed_tags(library: Any, name: str) -> str:
    found = library.list_pretrained(f"{name.partition('.')[0]}*")
    return ", ".join(found[:6]) or "no weights for it"


def _weights(
    name: str, about: Mapping[str, Any], pretrained: bool | str, local_files_only: bool
) -> tuple[Repository | Path | None, str]:
    if pretrained is False:
        return None, ""
    if isinstance(pretrained, str):
        if os.path.isabs(pretrained):
            return Path(pretrained), ""
        return _repository(pretrained, local_files_only), _file_of(about, pretrained)
    if about.get("hf_hub_id") and not about.get("custom_load"):
        return _repository(str(about["hf_hub_id"]), local_files_only), str(about.get("hf_hub_filename") or "")
    if about.get("url"):
        raise CheckpointError(
            f"timm has the weights of {name} at {about['url']} alone; fetch that file, and give its path as "
            "`pretrained`"
        )
    raise CheckpointError(
        f"timm has no weights for {name}; leave out `pretrained`, give a file of them, or another name "
        "(timm.list_pretrained() lists those that have)"
    )


def _file_of(about: Mapping[str, Any], pretrained: str) -> str:
    """timm's own name of the file, where the repository is the one that timm has for this network."""
    own = str(about.get("hf_hub_id") or "")
    return str(about.get("hf_hub_filename") or "") if own and pretrained.startswith(own) else ""


def _repository(name: str, local_files_only: bool) -> Repository:
    repository, _, revision = name.partition("@")
    return Repository(repository, revision or None, local_files_only, "pretrained")


def _normalization(about: Mapping[str, Any]) -> Normalization | None:
    mean, std = about.get("mean"), about.get("std")
    if not mean or not std:
        return None
    return tuple(map(float, mean)), tuple(map(float, std))


def _card(weights: Repository | Path | None) -> str:
    return weights.license() if isinstance(weights, Repository) else ""
