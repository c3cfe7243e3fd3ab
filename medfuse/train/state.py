"""Everything that training changes, on disk: written whole, checked by its hash, the one before it kept."""

from __future__ import annotations

import hashlib
import io
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, TypeAdapter, ValidationError

from medfuse.core.errors import CheckpointError, reason
from medfuse.core.files import atomic, file_hash
from medfuse.core.json_text import first_fault, shortened

_DIGEST = hashlib.sha256().digest_size  # bytes at the end of the file


def newest_state(folder: Path) -> Path:
    return folder / "training_state.pt"


def previous_state(folder: Path) -> Path:
    return folder / "training_state.previous.pt"


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers, texts and containers of them; the state before it stays, under another name.

    Whenever the process is killed, one of the two is whole.
    """
    path = newest_state(folder)
    with atomic(path) as temporary:
        with temporary.open("wb") as file:  # by its name, torch hides what the disk says
            torch.save(dict(state), file)
        digest = bytes.fromhex(file_hash(temporary))
        with temporary.open("ab") as file:
            file.write(digest)
        if path.exists():
            _set_aside(path, previous_state(folder))


def read_state(folder: Path, say: Callable[[str], None] = lambda line: None) -> dict[str, Any] | None:
    """The newest state that is whole; None where there is none. Loading executes no code.

    Says so where it is not the newest. Raises CheckpointError where all are damaged.
    """
    newest, faults = newest_state(folder), []
    for path in (newest, previous_state(folder)):
        if not path.exists():
            continue
        try:
            state = _read(path)
        except CheckpointError as error:
            faults.append(error)
            continue
        if path != newest:
            what = "damaged" if faults else "missing"
            say(f"{newest}: is {what}; carrying on from {path.name}, the state before it")
        return state
    if faults:
        raise faults[0]
    return None


@dataclass(frozen=True)
class Spent:
    """What a training has used of its budget."""

    step: Annotated[int, Field(ge=0, strict=True)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


def spent(folder: Path, state: Mapping[str, Any]) -> Spent:
    """How far the training of `state` has come. Raises CheckpointError where it does not say."""
    remedy = "delete it to train again from the start"
    progress = state.get("progress")
    known = {key: progress.get(key) for key in ("step", "seconds")} if isinstance(progress, dict) else None
    try:
        return TypeAdapter(Spent).validate_python(known)
    except ValidationError as error:
        raise CheckpointError(
            f"{newest_state(folder)}: does not say how far training came ({first_fault(error)}); {remedy}"
        ) from None


def how_far(folder: Path) -> Spent:
    """How far the training in `folder` has come: nowhere where there is none. Raises CheckpointError."""
    state = read_state(folder)
    return Spent(0, 0.0) if state is None else spent(folder, state)


def seed_chance(*numbers: int) -> None:
    """Start every random generator of this process from `numbers`, such as a seed and a step."""
    python, numpy, of_torch = np.random.SeedSequence(numbers).generate_state(3).tolist()
    random.seed(python)
    np.random.seed(numpy)
    torch.manual_seed(of_torch)


def _set_aside(path: Path, kept: Path) -> None:
    kept.unlink(missing_ok=True)
    try:
        os.link(path, kept)  # so that `path` is there at every moment
    except OSError:  # a file system without links
        path.replace(kept)


def _read(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    if hashlib.sha256(data[:-_DIGEST]).digest() != data[-_DIGEST:]:
        raise CheckpointError(
            f"{path}: cannot be read (its hash is not that of its content); it is damaged, or of another "
            "version of medfuse: delete it to train again from the start"
        )
    try:
        state = torch.load(io.BytesIO(data[:-_DIGEST]), map_location="cpu", weights_only=True)
    except Exception as error:  # torch has many ways to refuse a file
        raise CheckpointError(
            f"{path}: cannot be read ({shortened(reason(error), 120)}); delete it to train again"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: is no training state; delete it to train again from the start")
    return state
