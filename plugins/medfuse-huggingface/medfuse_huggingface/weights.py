"""The weights of a repository, by their names in the network, and held to be all of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from medfuse import CheckpointError, ImageInfo
from medfuse.core.errors import reason
from medfuse.core.json_text import shortened
from medfuse.core.text import by, listed
from medfuse.model.repository import Repository, read_tensors
from medfuse_huggingface.configs import made, quiet
from medfuse_huggingface.net import further, network_class, stages_of

_REMEDY = "fetch the network again, or mend `name`"
_ADDED = re.compile(r"hidden_states_norms\.|(^|\.)fpn\.|(^|\.)mask_token$|(^|\.)pooler\.")
"""What a network has as a backbone, or for pretraining alone, and its weights need not have."""


def read_weights(files: Repository, said: dict[str, Any], image: ImageInfo) -> Mapping[str, Tensor]:
    """Raises CheckpointError where they are no such network's, or not whole."""
    path, tensors = read_tensors(files)
    config = made(said)
    cls = network_class(config)
    if stages := stages_of(config):
        config.out_features = stages
    try:
        with quiet():
            network, about = cls.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **further(cls),
            )
    except Exception as error:  # whatever a strange state makes the library raise
        raise CheckpointError(
            f"{path}: cannot be given to a {cls.__name__} ({shortened(reason(error), 150)}); {_REMEDY}"
        ) from error
    state = network.state_dict()
    missing = {*about["missing_keys"]}
    _refuse_others(path, cls.__name__, state, missing, about["mismatched_keys"], tensors)
    found = {name: tensor for name, tensor in state.items() if name not in missing}
    if config.model_type == "hiera":
        found = _for_size(found, config, image)
    return {f"network.{name}": tensor for name, tensor in found.items()}


def _refuse_others(
    path: Path,
    kind: str,
    state: Mapping[str, Tensor],
    missing: set[str],
    mismatched: Any,
    tensors: Mapping[str, Tensor],
) -> None:
    """Raises CheckpointError where these are not all tensors of this network."""
    unlike = [(str(name), tuple(theirs), tuple(ours)) for name, theirs, ours in mismatched]
    if unlike:
        name, theirs, ours = min(unlike)
        raise CheckpointError(
            f"{path}: is of another network than its configuration: {name} is {by(theirs)} where the {kind} "
            f"has {by(ours)}, and {len(unlike) - 1} more are unlike; {_REMEDY}"
        )
    lacking = sorted(name for name in missing if name in state and not _ADDED.search(name))
    if not lacking:
        return
    raise CheckpointError(
        f"{path}: is not of this network: of the {len(state)} tensors of the {kind} it lacks {len(lacking)} "
        f"({listed(lacking, 3)}), and has {listed(sorted(tensors), 2)}; {_REMEDY}"
    )


def _for_size(found: dict[str, Tensor], config: Any, image: ImageInfo) -> dict[str, Tensor]:
    """Learnt positions brought to the grid of the image, as the library does it for other networks."""
    name = next(name for name in found if name.endswith("embeddings.position_embeddings"))
    before, now = (
        tuple(n // s for n, s in zip(size, config.patch_stride, strict=True))
        for size in (config.image_size, image.patch_size)
    )
    if before == now:
        return found
    grid = found[name].transpose(1, 2).unflatten(2, before)
    resized = functional.interpolate(grid, size=now, mode="bicubic", align_corners=False)
    return {**found, name: resized.flatten(2).transpose(1, 2).contiguous()}
