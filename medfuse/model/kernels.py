"""A tensor in the shape of another network's: kernels gain an axis, channels, or another size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medfuse.core.text import by


def adapt(
    tensor: Tensor, shape: Sequence[int], *, kernel: bool = True, stem: bool = False, resize: bool = False
) -> tuple[Tensor | None, str]:
    """`tensor` in `shape` and how it came there, or None and why not.

    Kernels (out, in, *size) gain an axis and, with `resize`, change their size; those of the first
    convolution, the `stem`, change their number of input channels too.
    """
    shape = tuple(shape)
    if tuple(tensor.shape) == shape:
        return tensor, "matched"
    deeper = len(shape) - tensor.ndim
    same = tensor.shape[:1] == shape[:1] and (stem or tensor.shape[1:2] == shape[1:2])
    if not kernel or tensor.ndim < 4 or deeper not in (0, 1) or not same:
        return None, f"left out: {_shape(tensor.shape)} in place of {_shape(shape)}"
    before = (*tensor.shape[2:], shape[-1]) if deeper else tuple(tensor.shape[2:])
    if before != shape[2:] and not resize:
        sizes = f"{_shape(tensor.shape[2:])} in place of {_shape(shape[2:])}"
        return None, f"left out: a kernel of {sizes}, which resize_kernels would adapt"
    told = []
    if tensor.shape[1] != shape[1]:
        told.append(f"{tensor.shape[1]} → {shape[1]} channels")
        tensor = with_channels(tensor, shape[1])
    if deeper:
        told.append("2-D → 3-D")
        tensor = deepened(tensor, shape[-1])
    kind = "inflated" if told else "resized"
    if tuple(tensor.shape[2:]) != shape[2:]:
        told.append(f"{_shape(tensor.shape[2:])} → {_shape(shape[2:])}")
        tensor = resized(tensor, shape[2:])
    return tensor, f"{kind}: {', '.join(told)}"


def with_channels(kernel: Tensor, channels: int) -> Tensor:
    """The mean over input channels in each of `channels`, scaled so that a constant image gives the same."""
    mean = kernel.mean(1, keepdim=True) * (kernel.shape[1] / channels)
    return mean.expand(-1, channels, *kernel.shape[2:])


def deepened(kernel: Tensor, length: int) -> Tensor:
    """A 2-D kernel repeated along z and divided by its length there (Carreira & Zisserman 2017)."""
    return kernel.unsqueeze(-1).expand(*kernel.shape, length) / length


def resized(kernel: Tensor, size: Sequence[int]) -> Tensor:
    """A kernel of another size whose sum is the same: each weight is spread linearly over its new places."""
    for axis, length in enumerate(size, start=2):
        spread = _spread(kernel.shape[axis], length).to(kernel)
        kernel = (kernel.movedim(axis, -1) @ spread.T).movedim(-1, axis)
    return kernel


def is_kernel(name: str, shape: Sequence[int]) -> bool:
    return len(shape) >= 4 and name.rpartition(".")[2] == "weight"


def _spread(before: int, after: int) -> Tensor:
    """(after, before): linear interpolation, or its transpose to a shorter axis; every column sums to 1."""
    if after < before:
        matrix = _spread(after, before).T
    else:
        matrix = functional.interpolate(torch.eye(before)[None], size=after, mode="linear")[0].T
    return matrix / matrix.sum(0)


def _shape(shape: Sequence[int]) -> str:
    return by(shape) or "a scalar"
