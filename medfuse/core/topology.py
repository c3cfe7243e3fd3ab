"""Depth, strides and kernels of a U-Net for a patch and its spacing (Isensee et al. 2021)."""

from collections.abc import Sequence
from math import prod
from typing import Any, Literal, TypeVar

from medfuse.core.errors import ShapeError
from medfuse.core.features import ImageInfo

SMALLEST = 4  # voxels that an axis keeps at least
FAR = 2.0  # voxels of an axis are far apart from this multiple of the finest spacing

Axes = tuple[int, ...]
Activation = Literal["leaky_relu", "relu", "elu", "silu", "mish", "gelu"]
Entry = TypeVar("Entry")


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


def per_axis(what: str, given: Sequence[int | Axes], dims: int) -> list[Axes]:
    """One number per axis for each entry. Raises ShapeError."""
    entries = [(n,) * dims if isinstance(n, int) else tuple(n) for n in given]
    for entry in entries:
        if len(entry) != dims or min(entry) < 1:
            raise ShapeError(f"{what} {list(entry)} does not fit a {dims}-D patch; give {dims} numbers")
    return entries


def for_each(what: str, given: Sequence[Entry], stages: int) -> Sequence[Entry]:
    """`given` as it is. Raises ShapeError where it has not one entry for each stage."""
    if len(given) != stages:
        raise ShapeError(f"{what} has {len(given)} entries for {stages} stages; give one per stage")
    return given


def odd_kernels(kernels: Any) -> Any:
    """A setting's kernels as they are. Raises ValueError where one of them is even."""
    each = () if kernels == "auto" else (k if isinstance(k, tuple) else (k,) for k in kernels)
    if any(n % 2 == 0 for kernel in each for n in kernel):
        raise ValueError("a kernel has an odd number of voxels, such as 3, so that it has a middle")
    return kernels


def token_grid(who: str, image: ImageInfo, patch: int, *, axes: Sequence[int]) -> Axes:
    """Tokens along each axis of an image that is cut into tokens of `patch` voxels. Raises ShapeError.

    axes: how many of them the network may have.
    """
    if image.dims not in axes:
        raise ShapeError(
            f"{who} sees patches of {' or '.join(map(str, axes))} sides; give sample.patch_size so"
        )
    if any(n % patch for n in image.patch_size):
        fits = [-(-n // patch) * patch for n in image.patch_size]
        raise ShapeError(
            f"{who} cuts a patch into tokens of {patch} voxels, of which {list(image.patch_size)} is no "
            f"multiple; the next that is: sample.patch_size: {fits}"
        )
    return tuple(n // patch for n in image.patch_size)


def given_or(preset: Sequence[int], *given: Literal["auto"] | int) -> tuple[int, ...]:
    """Each number that was given, and that of `preset` in the place of `auto`."""
    return tuple(usual if one == "auto" else one for usual, one in zip(preset, given, strict=True))
