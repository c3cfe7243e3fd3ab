"""Feature maps brought to another grid: the one place where medfuse interpolates them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


def resize(x: Tensor, size: Sequence[int], mode: Literal["linear", "nearest"] = "linear") -> Tensor:
    """(batch, channels, *any) → (batch, channels, *size), outer edges aligned; `x` itself where it fits.

    A map of one voxel is spread over the new one as it is, to the last bit.
    """
    if tuple(x.shape[2:]) == tuple(size):
        return x
    if all(n == 1 for n in x.shape[2:]):
        return x.expand(-1, -1, *size)
    if mode == "nearest":
        return functional.interpolate(x, size=tuple(size), mode="nearest-exact")
    linear = {2: "bilinear", 3: "trilinear"}[x.ndim - 2]
    return functional.interpolate(x, size=tuple(size), mode=linear, align_corners=False)


def centred(x: Tensor, stride: Sequence[int]) -> Tensor:
    """A map whose voxel i lies at voxel i·s of the image, shifted so that it lies in the middle of its s.

    Strided convolutions of odd kernels leave it there, (s - 1) / 2 voxels from where `resize` takes it to be.
    Between two voxels is interpolated linearly; beyond the last one it goes on as it ends.
    """
    for axis, step in enumerate(stride, start=2):
        length = x.shape[axis]
        if step > 1 and length > 1:
            last = x.narrow(axis, length - 1, 1)
            following = torch.cat([x.narrow(axis, 1, length - 1), last], dim=axis)
            x = x + (step - 1) / (2 * step) * (following - x)
    return x


def fit(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bring a map that was upsampled by whole factors to exactly `size`.

    Upsampling a map of ⌈n / stride⌉ voxels gives up to stride - 1 too many, which lie beyond the far edge
    and are cropped. Where the network rounded down they are too few, and the map is resized.
    """
    kept = tuple(slice(0, n) for n in size)
    return resize(x[(slice(None), slice(None), *kept)], size)
