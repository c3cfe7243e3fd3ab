"""Weights on disk: tensors and facts in one safetensors file, whose loading executes nothing."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medfuse.core.errors import CheckpointError, MedfuseError
from medfuse.core.files import atomic
from medfuse.core.json_text import shortened
from medfuse.core.text import by
from medfuse.model.plain_weights import FACTS, HASH, damaged, facts_in, refuse_odd_file


def save_weights(path: Path, model: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write every tensor of `model`'s state with `facts`, plain JSON values, and the hash of both.

    The same content is the same file, to the last byte. Raises OutputError.
    """
    save_tensors(path, model.state_dict(), facts)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """As `save_weights`, of tensors by name. Raises OutputError."""
    state = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    seen: set[int] = set()
    for name, tensor in state.items():
        if tensor.data_ptr() in seen:
            state[name] = tensor.clone()  # the format has no shared tensors
        seen.add(tensor.data_ptr())
    facts = _finite(dict(facts))
    hashed = {**facts, HASH: content_hash(state, facts)}
    with atomic(path) as temporary:
        save_file(state, temporary, metadata={FACTS: json.dumps(hashed)})


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the facts of a file that `save_weights` wrote, checked by their hash where it has one.

    Raises CheckpointError.
    """
    with opened(path) as (file, facts):
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        said = facts.pop(HASH, None)
        if said is not None and said != _hash_of_read(state, facts):
            raise damaged(path)
    return state, facts


def look_at_weights(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The facts of a file, and the shape of each tensor, checked as `load_weights` checks them.

    One tensor at a time is read, so that a file may be larger than memory. Raises CheckpointError.
    """
    with opened(path) as (file, facts):
        names = sorted(file.keys())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        said = facts.pop(HASH, None)
        if said is not None and said != _hash_of_read(_Lazily(file, names), facts):
            raise damaged(path)
    return facts, shapes


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """An open file of weights, and its facts, of which the last is their hash. Raises CheckpointError."""
    refuse_odd_file(path, header=True)
    try:
        with safe_open(path, "pt") as file:
            yield file, facts_in(path, file.metadata() or {})
    except MedfuseError:
        raise
    except Exception as error:  # a damaged file's reader has many ways to refuse it
        raise CheckpointError(
            f"{path}: cannot be read as weights ({shortened(str(error), 200)}); it is truncated or no "
            "safetensors file: copy it again, or train again"
        ) from error


class _Lazily(Mapping[str, Tensor]):
    """The tensors of an open file, each read when it is asked for."""

    def __init__(self, file: Any, names: Sequence[str]) -> None:
        self._file, self._names = file, names

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def load_into(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Give `model` the tensors of `path`. Raises CheckpointError where they are another model's."""
    own = model.state_dict()
    faults = {
        "missing": [name for name in own if name not in state],
        "not of this model": [name for name in state if name not in own],
        "of another shape": [
            f"{name} {_shape(state[name])} in place of {_shape(own[name])}"
            for name in own
            if name in state and own[name].shape != state[name].shape
        ],
    }
    if any(faults.values()):
        said = "; ".join(f"{len(found)} {what} ({_first(found)})" for what, found in faults.items() if found)
        raise CheckpointError(
            f"{path}: holds another model's weights: {said}; use the pipeline that they were trained with, "
            "or train again"
        )
    model.load_state_dict(dict(state))


def _finite(value: Any) -> Any:
    """Without NaN and infinity, which JSON has not: null in their place."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def tensors_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors with their names, shapes and types, whatever file they come from."""
    return content_hash({name: t.detach().cpu() for name, t in state.items()}, {})


def content_hash(state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """SHA-256 of tensors and facts together."""
    digest = hashlib.sha256(json.dumps(dict(facts)).encode())
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _hash_of_read(state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    try:
        return content_hash(state, facts)
    except Exception:  # tensors of a kind that has no bytes, which nothing here writes
        return ""


def _shape(tensor: Tensor) -> str:
    return by(tensor.shape) or "scalar"


def _first(names: list[str]) -> str:
    return ", ".join(names[:2]) + (", …" if len(names) > 2 else "")
