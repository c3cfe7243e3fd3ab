"""Checkpoints of other tools, read without executing anything that is in them."""

from __future__ import annotations

import pickle
import re
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from medfuse.core.errors import CheckpointError, reason
from medfuse.core.json_text import shortened
from medfuse.model.plain_weights import refuse_odd_file

_DEEPEST = 20


def read_checkpoint(path: Path) -> Any:
    """What a .safetensors, .pt or .pth file holds. Raises CheckpointError.

    Beside tensors and plain values, a file may hold numpy's numbers, as nnU-Net's checkpoints do, and the
    arguments of a command line, as DINO's do.
    """
    try:
        refuse_odd_file(path, header=path.suffix == ".safetensors")
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([*_numbers(), Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of torch, about how a file was pickled
            read = torch.load(path, map_location="cpu", weights_only=True)
        if fault := _fault(read):
            raise ValueError(fault)
        return read
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged file makes its reader raise
        raise CheckpointError(
            f"{path}: cannot be read as weights ({_why(error)}); it must hold tensors "
            "alone, as torch.save(model.state_dict(), …) or safetensors write them"
        ) from error


def _why(error: Exception) -> str:
    """What is wrong with a file; of a pickle, in place of torch's advice to run it, what it asks for."""
    if not isinstance(error, pickle.UnpicklingError):
        return shortened(reason(error), 120)
    asked = re.search(r"GLOBAL (\S+)", str(error))
    return f"it asks for {asked[1]}, which is code" if asked else "it is damaged, or a pickle of other things"


def read_plain(path: Path) -> dict[str, torch.Tensor]:
    """A file's tensors by name, where it holds nothing else. Raises CheckpointError."""
    state = read_checkpoint(path)
    if not isinstance(state, dict) or not all(isinstance(one, torch.Tensor) for one in state.values()):
        raise CheckpointError(f"{path}: holds more than tensors by name; fetch or save the network again")
    return {str(name): tensor for name, tensor in state.items()}


def _fault(value: Any, depth: int = 0) -> str:
    """What is wrong with what was read: nesting, and tensors that claim more than the file has of them."""
    if depth > _DEEPEST:
        return f"it is nested more than {_DEEPEST} deep"
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.device.type != "cpu":
            return f"a tensor is {value.layout} on {value.device.type}"
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            return f"a tensor of {value.numel():,} numbers has {value.untyped_storage().nbytes():,} bytes"
        return ""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return next(filter(None, (_fault(item, depth + 1) for item in inner)), "")


def _numbers() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What numpy's scalars and their dtypes are made with, by the names of numpy 1 and 2."""
    scalar: Any = np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(kind)) for kind in (*np.typecodes["AllInteger"], *np.typecodes["Float"], "?")}
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *dtypes,
    ]
