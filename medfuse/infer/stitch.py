"""Weighted windows added up to a volume, brick by brick, holding only what later windows still change."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable

import torch
from torch import Tensor

from medfuse.core.device import return_memory
from medfuse.infer.bricks import Brick
from medfuse.infer.shelf import Laid, Shelf
from medfuse.infer.windows import Axis, Grid, carried_voxels

Where = tuple[slice, slice, slice]

LARGE_SUMS = 512 * 2**20
"""From here on freed memory goes back at once, and sums of logits of 16 bits are kept in 16 bits too."""

_LARGE_BLOCK = 32 * 2**20

LARGEST_HALF = torch.finfo(torch.float16).max


class Stitcher:
    """Takes the logits of a grid's windows in its order, and after each gives back what that one finished.

    Brick n of an axis is what no window after n covers, so window (i, j, k) finishes brick (i, j, k) and
    nothing else. Sums of the rest are kept in blocks that no start or end of a window cuts: each is made by
    the first window that touches it and given up with its brick. Weights sum to 1 at every voxel, so there
    is nothing to divide by in the end.

    Sums are kept as `dtype`: float32, or float16 for half the memory, where each is computed in float32 and
    then rounded. Beyond what float16 can hold it is held at the largest; infinite values become NaN. `dtype`
    may be set between two windows; blocks that there are stay as they are. With a `shelf` blocks that no
    window touches before the next row of windows lie there in the meantime.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        shelf: Shelf | None = None,
    ) -> None:
        self._grid = grid
        self._shelf = shelf
        self._device = torch.device(device)
        self.dtype = dtype
        self._indices = grid.indices()
        self._weights = [torch.from_numpy(axis.weights).to(self._device) for axis in grid.axes]
        self._bricks = [axis.bricks() for axis in grid.axes]
        self._pieces = [_pieces(axis) for axis in grid.axes]
        self._sums: dict[tuple[int, ...], Tensor | Laid] = {}

    @property
    def carried_bytes(self) -> int:
        """What the unfinished sums take of memory now."""
        return sum(block.nbytes for block in self._sums.values() if isinstance(block, Tensor))

    @torch.no_grad()
    def add(self, logits: Tensor) -> Brick:
        """Add the next window's `logits` (classes, *window), of any float type; they are not changed."""
        index = next(self._indices)
        window = self._grid.at(index).where
        logits, weight = logits.to(self._device), self._weight(index)
        done = _three(bricks[n] for bricks, n in zip(self._bricks, index))
        pieces = [_three(piece) for piece in itertools.product(*(p[n] for p, n in zip(self._pieces, index)))]
        brick = _weighted(logits[_inside(done, window)], weight[_inside(done, window)[1:]])
        for piece in pieces:
            if _lies_in(piece, done) and (sums := self._recall(piece)) is not None:
                brick[_inside(piece, done)] += sums
        for piece in pieces:
            if not _lies_in(piece, done):
                self._keep(piece, logits[_inside(piece, window)], weight[_inside(piece, window)[1:]])
                if self._shelf and _lies_in(piece, done, self._grid.order[1:]):
                    self._lay_aside(piece, self._shelf)
        return Brick(done, brick)

    def _weight(self, index: tuple[int, int, int]) -> Tensor:
        """(x, y, z): the product of the window's weights along its axes."""
        x, y, z = (weights[n] for weights, n in zip(self._weights, index))
        return x[:, None, None] * y[:, None] * z

    def _keep(self, piece: Where, logits: Tensor, weight: Tensor) -> None:
        """Add a weighted piece of a window to its block's sums, which begin with the first."""
        before = self._recall(piece)
        if before is not None and before.dtype == torch.float32:
            self._sums[_corner(piece)] = before.addcmul_(logits.float(), weight)
            return
        exact = torch.mul(logits, weight)  # float32, as the weight is
        if before is not None:
            exact += before
        self._sums[_corner(piece)] = exact if self.dtype == torch.float32 else _half(exact)

    def _recall(self, piece: Where) -> Tensor | None:
        """The sums of a block, if it has any; no more among those that are carried."""
        block = self._sums.pop(_corner(piece), None)
        if isinstance(block, Laid):
            assert self._shelf is not None
            return self._shelf.take(block).to(self._device)
        return block

    def _lay_aside(self, piece: Where, shelf: Shelf) -> None:
        block = self._sums[_corner(piece)]
        assert isinstance(block, Tensor), "it has just been added to"
        self._sums[_corner(piece)] = shelf.put(block)


def carry_bytes(grid: Grid, classes: int, itemsize: int) -> int:
    """The most that a `Stitcher` holds between two windows, with sums of `itemsize` bytes each."""
    return int(carried_voxels(grid).max()) * classes * itemsize


def are_large(grid: Grid, classes: int) -> bool:
    """Whether sums of float32 would be."""
    return carry_bytes(grid, classes, 4) > LARGE_SUMS


def spare_memory(grid: Grid, classes: int) -> None:
    """Where sums are large, keep freed memory no more, as what lies free between their blocks adds up."""
    if are_large(grid, classes):
        return_memory(blocks=_LARGE_BLOCK)


def _pieces(axis: Axis) -> list[list[slice]]:
    """Each window as the pieces that the starts and ends of all windows cut it into."""
    cuts = sorted({*axis.starts, *axis.ends})
    found = []
    for start, end in zip(axis.starts, axis.ends):
        own = cuts[bisect.bisect_left(cuts, start) : bisect.bisect_left(cuts, end) + 1]
        found.append([slice(a, b) for a, b in itertools.pairwise(own)])
    return found


def _weighted(logits: Tensor, weight: Tensor) -> Tensor:
    """Their product in float32. Torch would first make another float32 copy of smaller floats."""
    if logits.dtype == torch.float32:
        return logits * weight
    return logits.to(torch.float32, copy=True).mul_(weight)


def _half(sums: Tensor) -> Tensor:
    nan = float("nan")
    sums.nan_to_num_(nan=nan, posinf=nan, neginf=nan)
    return sums.clamp_(-LARGEST_HALF, LARGEST_HALF).half()


def _three(slices: Iterable[slice]) -> Where:
    x, y, z = slices
    return x, y, z


def _corner(where: Where) -> tuple[int, ...]:
    return tuple(part.start for part in where)


def _lies_in(where: Where, outer: Where, axes: Iterable[int] = range(3)) -> bool:
    """Whether it does, on these axes; both begin within the same window, `outer` at its very start."""
    return all(where[axis].stop <= outer[axis].stop for axis in axes)


def _inside(where: Where, outer: Where) -> tuple[slice, ...]:
    """The place of `where` in a (classes, *outer) tensor."""
    places = (
        slice(part.start - around.start, part.stop - around.start) for part, around in zip(where, outer)
    )
    return slice(None), *places
