"""How nnU-Net, and nnssl after it, name the tensors of a plain U-Net."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

_BLOCK = re.compile(r"(.*?)(\.?stages\.\d+)(\.0)?\.convs\.(\d+)\.(conv|norm)\.(\w+)")
_STORED_TWICE = re.compile(r"(^|\.)(all_modules|decoder\.encoder)\.")


def plain_name(name: str) -> str:
    """`encoder.stages.0.1.conv.weight` of `encoder.stages.0.0.convs.1.conv.weight`: as medfuse names it.

    Empty for what is stored twice; other names are returned as they are.
    """
    if _STORED_TWICE.search(name):
        return ""
    found = _BLOCK.fullmatch(name)
    if not found:
        return name.replace("transpconvs.", "upsample.")
    before, stage, _, conv, part, what = found.groups()
    return f"{before}{stage}.{conv}.{'norm_act.norm' if part == 'norm' else part}.{what}"


def is_nnunets(names: Iterable[str]) -> bool:
    """Whether a state dict has nnU-Net's names."""
    return any(re.search(r"(stages\.\d+(\.0)?|stem)\.convs\.\d+\.(conv|all_modules)\.", n) for n in names)


def turned(tensor: Tensor) -> Tensor:
    """A kernel for (x, y, z) of one for (z, y, x), which nnU-Net's arrays are; other tensors as they are."""
    axes = range(2, tensor.ndim)
    return tensor.permute(0, 1, *reversed(axes)).contiguous() if tensor.ndim >= 4 else tensor
