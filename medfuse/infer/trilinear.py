"""Trilinear interpolation about a volume's outer edges, cell by cell, in the very arithmetic of torch.

A *cell* is the space between neighbouring coarse voxels; along an axis all fine voxels of a cell lie between
the same two coarse ones. Beyond the outermost coarse voxels a cell has the same voxel on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

Contraction = Literal["first", "second", "none"]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Axis:
    """An axis of `coarse` voxels brought to `fine`: where each fine voxel lies, as `F.interpolate` has it."""

    coarse: int
    fine: int

    @cached_property
    def position(self) -> npt.NDArray[np.float32]:
        """(fine,) in coarse voxels, 0 at the centre of the first and never below."""
        return _positions(self.coarse, self.fine, fused=contraction() != "none")

    @cached_property
    def _sides(self) -> tuple[Ints, Ints]:
        """(fine,) each: the coarse voxels before and after every fine one."""
        if self.coarse == self.fine:
            return np.arange(self.fine), np.arange(self.fine)
        low = np.minimum(self.position.astype(np.int64), self.coarse - 1)
        alone = (low == self.coarse - 1) | (self.position == 0)
        return low, np.where(alone, low, low + 1)

    @cached_property
    def weights(self) -> npt.NDArray[np.float32]:
        """(2, fine): of the coarse voxel before and after."""
        if self.coarse == self.fine:
            return np.stack([np.ones(self.fine, np.float32), np.zeros(self.fine, np.float32)])
        after = np.clip(self.position - self._sides[0].astype(np.float32), np.float32(0), np.float32(1))
        return np.stack([np.float32(1) - after, after])

    @cached_property
    def first(self) -> Ints:
        """(cells + 1,): the first fine voxel of every cell that has any, and `fine`."""
        low, high = self._sides
        new = np.flatnonzero((np.diff(low) != 0) | (np.diff(high) != 0)) + 1
        return np.concatenate([[0], new, [self.fine]])

    @cached_property
    def low(self) -> Ints:
        """(cells,): the coarse voxel before each cell."""
        return self._sides[0][self.first[:-1]]

    @cached_property
    def high(self) -> Ints:
        return self._sides[1][self.first[:-1]]

    def cells_until(self, ends: slice, begin: int) -> range:
        """Cells that begin at coarse voxel `begin` or after it and end in `ends`."""
        return _run((self.low >= begin) & (self.high >= ends.start) & (self.high < ends.stop))

    def cells_across(self, border: int) -> range:
        """The cell between coarse voxels border - 1 and border, if it has fine voxels."""
        return _run((self.low == border - 1) & (self.high == border))


def _run(chosen: npt.NDArray[np.bool_]) -> range:
    found = np.flatnonzero(chosen)
    return range(int(found[0]), int(found[-1]) + 1) if len(found) else range(0)


def exact_lerp(a: Tensor, b: Tensor, weight_a: Tensor, weight_b: Tensor) -> Tensor:
    """`a * weight_a + b * weight_b` in float32, rounded as torch's own kernel rounds it on this CPU."""
    return _lerp(a, b, weight_a, weight_b, contraction())


@lru_cache(maxsize=1)
def contraction() -> Contraction:
    """Which product in `a * weight_a + b * weight_b` this build of torch fuses with the sum: tried once."""
    values = torch.randn(16, 7, generator=torch.Generator().manual_seed(0))
    wanted = F.interpolate(values[None, :, :, None, None], (23, 1, 1), mode="trilinear")[0, :, :, 0, 0]

    def tried(how: Contraction) -> Tensor:
        position = torch.from_numpy(_positions(7, 23, fused=how != "none"))
        low = position.long().clamp(max=6)
        after = position - low
        return _lerp(values[:, low], values[:, (low + 1).clamp(max=6)], 1 - after, after, how)

    ways: tuple[Contraction, ...] = ("first", "second", "none")
    return next((how for how in ways if torch.equal(tried(how), wanted)), "first")


def _positions(coarse: int, fine: int, *, fused: bool) -> npt.NDArray[np.float32]:
    middle = np.arange(fine, dtype=np.float32) + np.float32(0.5)
    scale = np.float32(coarse) / np.float32(fine)
    if fused:
        found = (np.float64(scale) * middle.astype(np.float64) - 0.5).astype(np.float32)
    else:
        found = scale * middle - np.float32(0.5)
    return np.maximum(found, np.float32(0))


def _lerp(a: Tensor, b: Tensor, weight_a: Tensor, weight_b: Tensor, how: Contraction) -> Tensor:
    """A fused multiply-add rounds the exact product and sum once; float64 holds both well enough."""
    if how == "none":
        return a * weight_a + b * weight_b
    if how == "second":
        a, b, weight_a, weight_b = b, a, weight_b, weight_a
    return (a.double() * weight_a.double() + (b * weight_b).double()).float()
