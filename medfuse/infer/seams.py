"""Bricks become regions that can be resampled alone; what lies between two of them waits for the second."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from medfuse.infer.bricks import Brick
from medfuse.infer.trilinear import Axis


@dataclass(frozen=True, eq=False)
class Region:
    """Logits (classes, x, y, z) from coarse voxel `origin` on, and the cells to be filled from them alone."""

    logits: Tensor
    origin: tuple[int, int, int]
    cells: tuple[range, range, range]

    def __bool__(self) -> bool:
        return all(self.cells)

    @property
    def voxels(self) -> int:
        """How many coarse voxels it has."""
        return math.prod(self.logits.shape[1:])

    def pieces(self, axes: tuple[Axis, ...], fits: Callable[[Region], bool]) -> Iterator[Region]:
        """The region halved until every piece `fits`, or is one cell. Views of the same logits."""
        longest = max(range(3), key=lambda a: (len(self.cells[a]) > 1, a < 2, len(self.cells[a])))
        cells = self.cells[longest]
        if len(cells) == 1 or fits(self):
            yield self
        else:
            for half in (cells[: len(cells) // 2], cells[len(cells) // 2 :]):
                yield from self._along(longest, axes[longest], half).pieces(axes, fits)

    def _along(self, a: int, axis: Axis, cells: range) -> Region:
        begin, end = int(axis.low[cells[0]]), int(axis.high[cells[-1]]) + 1
        logits = self.logits.narrow(a + 1, begin - self.origin[a], end - begin)
        origin = [begin if b == a else o for b, o in enumerate(self.origin)]
        x, y, z = (cells if b == a else c for b, c in enumerate(self.cells))
        return Region(logits, (origin[0], origin[1], origin[2]), (x, y, z))


class Seams:
    """Remembers the last plane of a slab, the last strip of a row and the last face of a brick."""

    def __init__(self, axes: tuple[Axis, ...], sweep: int) -> None:
        self._axes = axes
        self._order = (sweep, *(a for a in range(3) if a != sweep))
        self._behind: dict[int, Tensor] = {}

    def regions(self, brick: Brick) -> Iterator[Region]:
        """The regions that `brick` completes: its inside, and what lies between it and earlier bricks.

        They hold each cell once. Views of the brick and of what is kept, valid until the next call.
        """
        origin = [w.start for w in brick.where]
        yield self._region(brick, brick.logits, origin)
        faces: list[tuple[Tensor, int]] = []
        for axis in self._order:
            where = brick.where[axis]
            last = None if where.stop == self._axes[axis].coarse else _section(brick.logits, faces, axis, -1)
            if where.start > 0:
                behind = self._recall(axis, brick)
                if self._axes[axis].cells_across(where.start):
                    between = torch.cat([behind, _section(brick.logits, faces, axis, 0)], axis + 1)
                    begin = [o - (a == axis) for a, o in enumerate(origin)]
                    yield self._region(brick, between, begin, across=axis)
                faces.append((behind, axis))
                origin[axis] -= 1
            if last is not None:
                self._keep(axis, brick, last)

    def _region(self, brick: Brick, logits: Tensor, origin: list[int], across: int | None = None) -> Region:
        x, y, z = (
            axis.cells_across(where.start) if a == across else axis.cells_until(where, start)
            for a, (axis, where, start) in enumerate(zip(self._axes, brick.where, origin))
        )
        return Region(logits, (origin[0], origin[1], origin[2]), (x, y, z))

    def _place(self, axis: int, brick: Brick) -> tuple[slice, ...]:
        """Where a brick's part lies in what is kept: all of it but along the axes that come after."""
        later = self._order[self._order.index(axis) + 1 :]
        return (slice(None), *(brick.where[a] if a in later else slice(None) for a in range(3)))

    def _recall(self, axis: int, brick: Brick) -> Tensor:
        return self._behind[axis][self._place(axis, brick)].clone()

    def _keep(self, axis: int, brick: Brick, last: Tensor) -> None:
        later = self._order[self._order.index(axis) + 1 :]
        if all(brick.where[a].start == 0 for a in later):
            full = [self._axes[a].coarse if a in later else last.shape[a + 1] for a in range(3)]
            if axis not in self._behind or list(self._behind[axis].shape[1:]) != full:
                self._behind[axis] = last.new_empty((len(last), *full))
        self._behind[axis][self._place(axis, brick)] = last


def _section(logits: Tensor, faces: list[tuple[Tensor, int]], axis: int, index: int) -> Tensor:
    """The first (0) or last (-1) plane across `axis` of a brick together with the faces before it."""
    at = (slice(None),) * (axis + 1) + (slice(0, 1) if index == 0 else slice(-1, None),)
    plane = logits[at]
    for face, along in faces:
        plane = torch.cat([face[at], plane], along + 1)
    return plane
