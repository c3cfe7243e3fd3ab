"""Checkpoints of other tools, read without executing anything that is in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from medfuse.core.errors import CheckpointError


def read_checkpoint(path: Path) -> Any:
    """What a .safetensors, .pt or .pth file holds. Raises CheckpointError.

    Beside tensors and plain values, a file may hold numpy's numbers, as nnU-Net's checkpoints do.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_numbers()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no such file; give a .safetensors, .pt or .pth file, or make it first"
        ) from None
    except Exception as error:  # whatever a damaged file makes its reader raise
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path}: cannot be read as weights ({reason[:120]}); it must hold tensors alone, as "
            "torch.save(model.state_dict(), …) or safetensors write them"
        ) from error


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
