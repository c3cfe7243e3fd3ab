"""Depth, strides and kernels of a U-Net for a patch and its spacing (Isensee et al. 2021)."""

from collections.abc import Sequence
from math import prod

from medfuse.core.features import ImageInfo

SMALLEST = 4  # voxels that an axis keeps at least
FAR = 2.0  # voxels of an axis are far apart from this multiple of the finest spacing

Axes = tuple[int, ...]


def plan_strides(image: ImageInfo) -> list[Axes]:
    """The stride of each stage by nnU-Net's rule; the first is 1 on every axis."""
    size, spacing = list(image.patch_size), list(image.spacing_mm)
    strides: list[Axes] = [(1,) * image.dims]
    while long := [axis for axis, n in enumerate(size) if n >= 2 * SMALLEST]:
        finest = min(spacing[axis] for axis in long)
        halved = [axis for axis in long if spacing[axis] / finest < FAR]
        if len(halved) == 1 and size[halved[0]] < 3 * SMALLEST:
            break
        strides.append(tuple(2 if axis in halved else 1 for axis in range(image.dims)))
        for axis in halved:
            size[axis] = -(-size[axis] // 2)
            spacing[axis] *= 2
    return strides


def plan_kernels(spacing_mm: Sequence[float], strides: Sequence[Axes]) -> list[Axes]:
    """Per stage: 3, and 1 along an axis until its voxels are no longer far apart; 3 in the last stage."""
    kernels: list[Axes] = []
    spacing, kernel = list(spacing_mm), (1,) * len(spacing_mm)
    for stride in strides:
        spacing = [s * n for s, n in zip(spacing, stride)]
        kernel = tuple(3 if k == 3 or s / min(spacing) < FAR else 1 for k, s in zip(kernel, spacing))
        kernels.append(kernel)
    return [*kernels[:-1], (3,) * len(spacing)]


def total_stride(strides: Sequence[Axes]) -> Axes:
    """The stride of the coarsest stage: what a patch's sides should be multiples of."""
    return tuple(prod(per_axis) for per_axis in zip(*strides))
