"""Which axis of a tensor has the channels, told by the operations that made it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_AXIS = "_medfuse_channel_axis"


class Provenance(TorchFunctionMode):
    """Follows channels through a forward pass: convolutions put them first, linear layers last.

    Permutations move them, what keeps the number of axes leaves them where they are. Reshaping leaves them
    last where the last axis stays as long, and first where batch and channels do. After anything else nobody
    knows.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = [(x.shape, axis) for x in _tensors((args, kwargs)) if (axis := channel_axis(x)) is not None]
        made = func(*args, **kwargs)
        if getattr(func, "__name__", "").startswith("__get__"):
            return made
        for x in _tensors(made):
            setattr(x, _AXIS, _axis(func, args, kwargs, x, known))
        return made


def channel_axis(x: Tensor) -> int | None:
    """Where a tensor that was made below `Provenance` has its channels, or None."""
    found: int | None = x.__dict__.get(_AXIS)
    return found


def _axis(
    func: Any, args: Any, kwargs: dict[str, Any], made: Tensor, known: list[tuple[torch.Size, int]]
) -> int | None:
    if func in _FIRST:
        return 1
    if func in _LAST:
        return made.ndim - 1
    if func in _MOVES:
        shape, axis = known[0] if known else (torch.Size(), 0)
        if len(shape) != made.ndim:
            return None
        with torch._C.DisableTorchFunction():
            moved = func(torch.empty([*range(2, 2 + made.ndim)]), *args[1:], **kwargs)
        return [*moved.shape].index(2 + axis)
    if func in _RESHAPES:
        return _reshaped(made, *known[0]) if known else None
    if func in _FORGETS:
        return None
    axes = {axis for shape, axis in known if len(shape) == made.ndim}
    return axes.pop() if len(axes) == 1 else None


def _reshaped(made: Tensor, shape: torch.Size, axis: int) -> int | None:
    """Where channels at `axis` of a tensor of `shape` are in what it was reshaped to."""
    if axis == len(shape) - 1:
        return made.ndim - 1 if made.shape[-1:] == shape[-1:] else None
    return 1 if axis == 1 and made.shape[:2] == shape[:2] else None


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _named(names: str, *owners: Any) -> set[Any]:
    return {getattr(owner, name) for owner in owners for name in names.split() if hasattr(owner, name)}


_FIRST = _named(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d batch_norm instance_norm "
    "group_norm max_pool2d max_pool3d avg_pool2d avg_pool3d adaptive_avg_pool2d adaptive_avg_pool3d "
    "adaptive_max_pool2d adaptive_max_pool3d interpolate pixel_shuffle",
    functional,
    torch,
)
_LAST = _named("linear layer_norm rms_norm scaled_dot_product_attention", functional, torch)
_MOVES = _named("permute transpose movedim moveaxis swapaxes swapdims", torch, Tensor)
_RESHAPES = _named("reshape view flatten unflatten reshape_as view_as", torch, Tensor)
_FORGETS = _named(
    "squeeze unsqueeze matmul bmm einsum __matmul__ unfold tensordot expand as_strided mT T t",
    torch,
    Tensor,
)
