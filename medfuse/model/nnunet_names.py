"""How nnU-Net, and what is trained in it, name and order tensors: U-Nets, MedNeXt, nnssl's networks."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from medfuse.core.errors import CheckpointError

_BLOCK = re.compile(r"(.*?)(\.?stages\.\d+)(\.0)?\.convs\.(\d+)\.(conv|norm)\.(\w+)")
_NNUNETS = re.compile(
    r"(stages\.\d+(\.0)?|stem)\.convs\.\d+\.(conv|all_modules)\."  # its U-Nets
    r"|(^|\.)eva\.blocks\.\d+\."  # Primus
    r"|(^|\.)(enc_block|down)_\d+\.(\d+\.)?conv1\."  # MedNeXt, as its authors name it
)
_ELSEWHERE = (
    (re.compile(r"(^|\.)enc_block_(\d+)\."), r"\1enc_stages.\2."),
    (re.compile(r"(^|\.)down_(\d+)\."), r"\1down_blocks.\2."),
    (re.compile(r"\.grn_(gamma|beta)$"), r".global_resp_\1"),  # MedNeXt v2
    (re.compile(r"(^|\.)blocks\.\d+\.(\d+)\.(norm|attn|ls|mlp)"), r"\1blocks.\2.\3"),
)
_MOST_IN_FRONT = 16  # tokens without a place
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


def elsewhere_name(name: str) -> str:
    """A name of MedNeXt's or 3DINO's authors as the networks here have it; others are returned as they are.

    `enc_stages.0.1.conv1.weight` of `enc_block_0.1.conv1.weight`, and `blocks.5.norm1.weight` of
    `blocks.1.5.norm1.weight`, whose blocks lie in chunks.
    """
    for theirs, ours in _ELSEWHERE:
        name = theirs.sub(ours, name)
    return name


def is_nnunets(names: Iterable[str]) -> bool:
    """Whether a state dict has names of networks that nnU-Net or nnssl trains, on (z, y, x) arrays."""
    return any(_NNUNETS.search(name) for name in names)


def turned(name: str, tensor: Tensor) -> Tensor:
    """A kernel for (x, y, z) of one for (z, y, x), and positions likewise; other tensors as they are.

    Raises CheckpointError for positions that lie on no cube, as nothing tells how long its sides are.
    """
    axes = range(2, tensor.ndim)
    if tensor.ndim >= 4:
        return tensor.permute(0, 1, *reversed(axes)).contiguous()
    if tensor.ndim == 3 and name.rpartition(".")[2] == "pos_embed":
        sides = {
            n: round((tensor.shape[1] - n) ** (1 / 3)) for n in range(min(_MOST_IN_FRONT, tensor.shape[1]))
        }
        front = next((n for n, side in sides.items() if side**3 == tensor.shape[1] - n), None)
        if front is None:
            raise CheckpointError(
                f"{name}: positions of {tensor.shape[1]} tokens lie on no cube, and so cannot be turned to "
                "(x, y, z); leave this tensor out"
            )
        placed = tensor[:, front:].unflatten(1, (sides[front],) * 3).permute(0, 3, 2, 1, 4).flatten(1, 3)
        return torch.cat([tensor[:, :front], placed], 1)
    return tensor
