"""Configurations in plain words, of a file or of a hand, and the class of transformers that they are of."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any

from medfuse import CheckpointError, PluginError
from medfuse.core.errors import did_you_mean, lacks, reason
from medfuse.core.json_text import shortened
from medfuse.core.offline import import_offline
from medfuse.core.text import listed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from medfuse.model.repository import Repository

_ABOUT = frozenset(
    {
        *("architectures", "auto_map", "custom_pipelines", "transformers_version", "transformers_weights"),
        *("torch_dtype", "dtype", "name_or_path", "commit_hash", "initializer_factor", "pruned_heads"),
        *("stage_names", "out_features", "out_indices", "num_labels", "id2label", "label2id", "problem_type"),
        *(
            "attn_implementation",
            "attn_implementation_autoset",
            "torchscript",
            "use_bfloat16",
            "output_attentions",
        ),
    }
)
"""What a configuration says of its weights, their file and other uses, not of the network that is tapped."""

VISION = "vision_config"
_UNMASKED = {"vit_mae": "vit"}  # what sees an image whole, with the same weights


def of_file(files: Repository) -> dict[str, Any]:
    """What a repository's configuration says of its network. Raises CheckpointError."""
    said = files.config()
    where = f"{files.name}: config.json"
    if "quantization_config" in said:
        raise CheckpointError(f"{where} is of quantised weights; give a repository with whole ones")
    inner = said.get(VISION)
    older = _is_older(said) or (isinstance(inner, Mapping) and _is_older(inner))
    return _plain(said, where, ignores_unknown=older)


def of_hand(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a pipeline writes out under `config`. Raises CheckpointError."""
    return _plain(said, "config", ignores_unknown=False)


def made(said: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration itself, of plain words that are known to it."""
    cls = _class(str(said["model_type"]), "config")
    config = cls(**deepcopy({key: value for key, value in said.items() if key != "model_type"}))
    for key in ("output_attentions", "output_hidden_states"):
        setattr(config, key, False)
    return config


def channels_of(said: Mapping[str, Any]) -> int:
    """Channels of the images that its network sees."""
    number = getattr(made(said), "num_channels", 3)
    return number if isinstance(number, int) else 3


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without its bars and warnings, which are about what is looked after here."""
    logger = logging.getLogger("transformers")
    level, told = logger.level, logger.propagate
    said: Any = import_offline("transformers.utils.logging")
    bars = said.is_progress_bar_enabled()
    logger.setLevel(logging.CRITICAL)
    said.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.propagate = told
        if bars:
            said.enable_progress_bar()


def transformers() -> Any:
    """The library. Raises PluginError where it cannot be imported."""
    try:
        return import_offline("transformers")
    except ModuleNotFoundError as error:
        install = lacks(error) or "pip install transformers"
        raise PluginError(f"huggingface needs transformers, which cannot be imported: {install}") from error
    except Exception as error:  # as of a version that is not for this Python or torch
        raise PluginError(
            f"huggingface needs transformers, which cannot be imported: {reason(error)}; run pip install "
            "--upgrade transformers"
        ) from error


def _plain(said: Mapping[str, Any], where: str, *, ignores_unknown: bool) -> dict[str, Any]:
    said, where = _of_vision(said, where)
    kind = said.get("model_type")
    cls = _class(kind, where, said)
    if kind in _UNMASKED:
        own = _known(_class(_UNMASKED[kind], where))
        said = {key: value for key, value in said.items() if key in own or key not in _known(cls)}
        kind, cls = _UNMASKED[kind], _class(_UNMASKED[kind], where)
    known = _known(cls)
    kept = {key: value for key, value in said.items() if key in known or key in cls.attribute_map}
    aside = {*_shared(), *_ABOUT, *_derived(cls), "model_type"}
    unknown = [key for key in said if key not in kept and key.lstrip("_") not in aside]
    if unknown and not ignores_unknown:
        near = did_you_mean(unknown[0], known) if len(unknown) == 1 else ""
        raise CheckpointError(
            f"{where}: {cls.__name__} of transformers {_version()} knows no {listed(unknown)}{near}; mend or "
            "remove what it does not know, or use the version of transformers that wrote it"
        )
    with quiet():
        try:
            config = cls(**deepcopy(kept))
        except Exception as error:  # whatever its validators raise
            said_ = " ".join(str(error).split())
            raise CheckpointError(f"{where}: {cls.__name__} refuses it: {shortened(said_, 200)}") from error
        values = {name: getattr(config, name) for name in sorted(known) if hasattr(config, name)}
    return {"model_type": kind, **json.loads(json.dumps(values, default=str))}


def _of_vision(said: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], str]:
    """The part for images of a network of images and texts."""
    inner = said.get(VISION)
    if not isinstance(inner, Mapping):
        return said, where
    kind = inner.get("model_type")
    if not kind:
        outer = _class(said.get("model_type"), where, said)
        kind = outer.sub_configs[VISION].model_type if VISION in outer.sub_configs else ""
    return {**inner, "model_type": kind}, f"{where}: {VISION}"


def _class(kind: Any, where: str, said: Mapping[str, Any] | None = None) -> type[PreTrainedConfig]:
    transformers()
    mapping = import_offline("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    if isinstance(kind, str) and kind in mapping:
        try:
            found: type[PreTrainedConfig] = mapping[kind]
            return found
        except Exception as error:
            raise CheckpointError(f"{where}: {kind} cannot be imported ({reason(error)})") from error
    said = said or {}
    if not kind and "architecture" in said:
        raise CheckpointError(
            f"{where}: is of timm's {said['architecture']}; take it by `use: timm` of medfuse-timm"
        )
    if not kind:
        raise CheckpointError(
            f"{where}: names no model_type; give the configuration of a network of transformers, as "
            "save_pretrained writes it"
        )
    own = ", and the repository's own code is not run" if "auto_map" in said else ""
    raise CheckpointError(
        f"{where}: transformers {_version()} has no network {shortened(repr(kind), 60)}"
        f"{did_you_mean(str(kind), mapping.keys())}{own}; run pip install --upgrade transformers, or take "
        "another network"
    )


@cache
def _known(cls: type[PreTrainedConfig]) -> frozenset[str]:
    """Its own keys: what the network is, and not what all configurations have."""
    own = {field.name for field in fields(cls) if not field.name.startswith("_")}
    return frozenset(own - _shared() - _ABOUT)


@cache
def _derived(cls: type[PreTrainedConfig]) -> frozenset[str]:
    """What it works out from its keys and writes down beside them."""
    with quiet():
        return frozenset(key.lstrip("_") for key in vars(cls()))


@cache
def _shared() -> frozenset[str]:
    return frozenset(field.name for field in fields(transformers().PreTrainedConfig))


def _is_older(said: Mapping[str, Any]) -> bool:
    """Whether an earlier version wrote it, whose keys this one may have given up; it would not read them."""
    from packaging.version import InvalidVersion, Version

    written = said.get("transformers_version")
    try:
        return isinstance(written, str) and Version(written) < Version(_version())
    except InvalidVersion:
        return False


def _version() -> str:
    return str(transformers().__version__)
