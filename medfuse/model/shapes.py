"""What torch's meta device answers slowly, answered quickly: the shapes that common operations make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class ShapesOnly(TorchFunctionMode):
    """Answers for what the meta device would ask torch's compiler, whose import takes as long as torch's.

    Random weights have no values there, norms and activations keep a shape, sums and products broadcast,
    concatenation adds up, and the shape after a convolution, a pooling or an interpolation is arithmetic.
    Anything else, mistakes included, is torch's.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.cat:
            return _joined(*args, **kwargs)
        if func in _ARITHMETIC and (made := _ARITHMETIC[func](*args, **kwargs)) is not None:
            return made
        if func not in _SAME_SHAPE or not args[0].is_meta:
            return func(*args, **kwargs)
        if func is functional.instance_norm and args[0].shape[2:].numel() == 1:
            raise ValueError("instance norm has a single voxel to take statistics from")
        if func is Tensor.normal_ or kwargs.get("inplace"):
            return args[0].zero_()  # counts as an in-place change
        return args[0].new_empty(args[0].shape)


def _joined(maps: Sequence[Tensor], dim: int = 0) -> Tensor:
    sizes = [[*x.shape] for x in maps]
    if not all(x.is_meta for x in maps) or any(len(s) != len(sizes[0]) for s in sizes):
        return torch.cat(list(maps), dim=dim)
    total = sum(size.pop(dim) for size in sizes)
    if any(size != sizes[0] for size in sizes):
        return torch.cat(list(maps), dim=dim)  # it says what is wrong
    shape = sizes[0]
    shape.insert(dim if dim >= 0 else dim + maps[0].ndim, total)
    return maps[0].new_empty(shape)


def _broadcast(x: Tensor, y: Any, **settings: Any) -> Tensor | None:
    """A map with another or with a number, voxel by voxel, or None where torch should speak."""
    tensors = [t for t in (x, y) if isinstance(t, Tensor)]
    if settings or not all(t.is_meta and t.dtype == torch.get_default_dtype() for t in tensors):
        return None
    wide = torch.broadcast_tensors(*tensors)[0]  # which says what does not fit
    return wide.new_empty(wide.shape)


def _broadcast_into(x: Tensor, y: Any, **settings: Any) -> Tensor | None:
    made = _broadcast(x, y, **settings)
    return x.zero_() if made is not None and made.shape == x.shape else None  # an in-place change


def _resized(x: Tensor, size: Any = None, *, mode: str = "nearest", **_: Any) -> Tensor | None:
    """A map brought to a size that is given for each axis, or None where torch should speak."""
    linear = {4: "bilinear", 5: "trilinear"}.get(x.ndim)
    known = isinstance(size, tuple | list) and len(size) == x.ndim - 2 and None not in size
    return _made(x, x.shape[1], size) if known and mode in ("nearest", "nearest-exact", linear) else None


def _pooled_to(x: Tensor, output_size: Any, return_indices: bool = False) -> Tensor | None:
    """A map pooled to a size, one for all axes or one for each, or None where torch should speak."""
    if return_indices:
        return None
    return _resized(x, (output_size,) * (x.ndim - 2) if isinstance(output_size, int) else output_size)


def _reduced(x: Tensor, dim: Any = None, keepdim: bool = False, **settings: Any) -> Tensor | None:
    """A map without some of its axes, or None where torch should speak."""
    given = (dim,) if isinstance(dim, int) else dim
    if settings or not x.is_meta or not given or not all(-x.ndim <= d < x.ndim for d in given):
        return None
    gone = {d % x.ndim for d in given}
    size = [1 if d in gone else n for d, n in enumerate(x.shape) if keepdim or d not in gone]
    return x.new_empty(size)


def _pooled(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    dims: int,
) -> Tensor | None:
    """The map of a max pooling, as of a convolution by channel, or None where torch should speak."""
    kernel = (kernel_size,) * dims if isinstance(kernel_size, int) else tuple(kernel_size)
    most = padding if isinstance(padding, int) else max(padding)
    if ceil_mode or return_indices or 2 * most > min(kernel) or x.ndim != dims + 2:
        return None
    channels = x.shape[1]
    window = x.new_empty((channels, 1, *kernel))
    return _convolved(x, window, None, stride or kernel, padding, dilation, channels)


def _projected(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """The tokens of a linear layer, or None where torch should speak."""
    fits = x.is_meta and x.ndim > 1 and weight.ndim == 2 and x.shape[-1] == weight.shape[1]
    return x.new_empty((*x.shape[:-1], weight.shape[0])) if fits else None


def _normalised(x: Tensor, normalized_shape: Sequence[int], *_: Any, **__: Any) -> Tensor | None:
    """The map of a layer norm, or None where torch should speak."""
    size = tuple(normalized_shape)
    return x.new_empty(x.shape) if x.is_meta and size and tuple(x.shape[-len(size) :]) == size else None


def _attended(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor | None:
    """The answers of attention, or None where torch should speak."""
    asked, known, told = query.shape, key.shape, value.shape
    fits = query.is_meta and asked[:-2] == known[:-2] == told[:-2]
    fits = fits and asked[-1] == known[-1] and known[-2] == told[-2]
    return query.new_empty((*asked[:-1], told[-1])) if fits else None


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """The map of a convolution, or None where torch should speak."""
    if isinstance(padding, str) or x.ndim != weight.ndim:
        return None
    if x.is_meta and x.shape[1] != (wanted := groups * weight.shape[1]):  # torch tells no numbers there
        raise ValueError(f"a convolution of {wanted} channels is given {x.shape[1]}")
    axes = _axes(x, weight, stride, padding, dilation)
    size = [(n + 2 * pad - gap * (k - 1) - 1) // step + 1 for n, k, step, pad, gap in axes]
    return _made(x, weight.shape[0], size)


def _transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor | None:
    """The map of a transposed convolution, or None where torch should speak."""
    if x.ndim != weight.ndim:
        return None
    if x.shape[1] != weight.shape[0]:  # which torch's meta device lets through
        raise ValueError(f"a transposed convolution of {weight.shape[0]} channels is given {x.shape[1]}")
    axes = _axes(x, weight, stride, padding, dilation, output_padding)
    size = [(n - 1) * step - 2 * pad + gap * (k - 1) + 1 + more for n, k, step, pad, gap, more in axes]
    return _made(x, groups * weight.shape[1], size)


def _axes(x: Tensor, weight: Tensor, *settings: Any) -> list[tuple[int, ...]]:
    """For each axis: voxels, kernel, and each of `settings`."""
    dims = weight.ndim - 2
    per_axis = ((v,) * dims if isinstance(v, int) else tuple(v) for v in settings)
    return list(zip(x.shape[2:], weight.shape[2:], *per_axis))


def _made(x: Tensor, channels: int, size: Sequence[int]) -> Tensor | None:
    return x.new_empty((x.shape[0], channels, *size)) if x.is_meta and min(size) > 0 else None


_BINARY = ("add", "sub", "mul", "div", "maximum", "minimum")
_UNARY = ("relu", "sigmoid", "tanh", "exp", "sqrt", "square", "abs", "neg", "floor", "softmax")

_DROPOUT = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")

_ARITHMETIC: dict[Any, Callable[..., Tensor | None]] = {
    functional.conv2d: _convolved,
    functional.conv3d: _convolved,
    functional.conv_transpose2d: _transposed,
    functional.conv_transpose3d: _transposed,
    functional.linear: _projected,
    functional.layer_norm: _normalised,
    functional.scaled_dot_product_attention: _attended,
    functional.max_pool2d: partial(_pooled, dims=2),
    functional.max_pool3d: partial(_pooled, dims=3),
    functional.interpolate: _resized,
    functional.adaptive_avg_pool2d: _pooled_to,
    functional.adaptive_avg_pool3d: _pooled_to,
    functional.adaptive_max_pool2d: _pooled_to,
    functional.adaptive_max_pool3d: _pooled_to,
    **{getattr(owner, name): _reduced for owner in (torch, Tensor) for name in ("mean", "amax", "amin")},
    Tensor.__rsub__: _broadcast,
    **{getattr(owner, name): _broadcast for owner in (torch, Tensor) for name in _BINARY},
    **{getattr(Tensor, f"{name}_"): _broadcast_into for name in _BINARY[:4]},
}

_SAME_SHAPE = {
    Tensor.normal_,
    functional.instance_norm,
    functional.batch_norm,
    functional.group_norm,
    functional.relu,
    functional.leaky_relu,
    functional.elu,
    functional.silu,
    functional.gelu,
    functional.softmax,
    *(getattr(functional, name) for name in _DROPOUT),
    *(getattr(owner, name) for owner in (torch, Tensor) for name in _UNARY),
}
