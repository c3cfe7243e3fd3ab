"""Labels of a region's cells: what interpolation and argmax would give, without interpolating most of it.

Interpolation is a convex combination. A cell whose eight corners have one winner belongs to it; elsewhere a
class can win only where its largest corner reaches what the others are sure to have. Values within rounding
of a tie are computed again in the arithmetic of torch's own kernel, so that labels are equal to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from medfuse.infer.seams import Region
from medfuse.infer.trilinear import Axis, exact_lerp

Kind = Literal["softmax", "regions"]
"""softmax: the largest logit wins, the lowest class of equals. regions: 0, over which each class in order
writes its value where its logit is above 0."""

_BLOCK = 4  # coarse voxels along each axis that share a list of possible winners
_ROUNDING = 2.0**-19  # more than interpolation can err in float32, relative to the values at the corners
_SMALLEST = 1e-30  # below it products may be denormal
_AT_ONCE = 1 << 20  # numbers in a temporary


@dataclass(frozen=True, eq=False)
class Cells:
    """A region's cells as tables on its device. `n` is the most fine voxels that a cell has, per axis."""

    region: Region
    axes: tuple[Axis, ...]

    @cached_property
    def sides(self) -> list[Tensor]:
        """Per axis (cells, 2): the voxels before and after, in the region."""
        return [
            self._put(torch.stack([torch.from_numpy(a.low[c]), torch.from_numpy(a.high[c])], 1) - o)
            for a, c, o in zip(self.axes, self._chosen, self.region.origin)
        ]

    @cached_property
    def fine(self) -> list[Tensor]:
        """Per axis (cells, n): the fine voxels of each cell, the last repeated where it has fewer."""
        tables = []
        for axis, chosen in zip(self.axes, self._chosen):
            first = torch.from_numpy(axis.first)
            begin, end = first[:-1][chosen], first[1:][chosen]
            steps = torch.arange(int((end - begin).max()))
            tables.append(self._put(torch.minimum(begin[:, None] + steps, end[:, None] - 1)))
        return tables

    @cached_property
    def weights(self) -> list[Tensor]:
        """Per axis (cells, 2, n): the weights of both sides for those fine voxels."""
        return [
            self._put(torch.from_numpy(axis.weights)[:, fine.cpu()].transpose(0, 1))
            for axis, fine in zip(self.axes, self.fine)
        ]

    @cached_property
    def offsets(self) -> list[Tensor]:
        """Per axis (cells, 2): the sides as distances in the logits' memory."""
        return [side * step for side, step in zip(self.sides, self.region.logits.stride()[1:])]

    @cached_property
    def memory(self) -> Tensor:
        """The logits' memory as one row, whatever their strides."""
        logits = self.region.logits
        reach = sum((n - 1) * step for n, step in zip(logits.shape, logits.stride()))
        return logits.as_strided((1 + reach,), (1,))

    @property
    def _chosen(self) -> tuple[slice, ...]:
        return tuple(slice(c.start, c.stop) for c in self.region.cells)

    def _put(self, table: Tensor) -> Tensor:
        return table.to(self.region.logits.device)

    def corners(self, cells: Tensor) -> Tensor:
        """(n, 2, 2, 2): where the corners of cells (n, 3) are in memory, for class 0."""
        x, y, z = (table[cells[:, a]] for a, table in enumerate(self.offsets))
        return x[:, :, None, None] + y[:, None, :, None] + z[:, None, None, :]

    def values(self, corners: Tensor, classes: Tensor) -> Tensor:
        """(n, 2, 2, 2): logits at those corners of one class each."""
        return _taken(self.memory, corners + (classes * self.region.logits.stride(0))[:, None, None, None])

    def spread(self, values: Tensor, cells: Tensor) -> Tensor:
        """(n, nx, ny, nz): the fine values of cells (n, 3) from their corners' (n, 2, 2, 2)."""
        x, y, z = (table[cells[:, a]] for a, table in enumerate(self.weights))
        values = values[..., :1] * z[:, None, None, 0] + values[..., 1:] * z[:, None, None, 1]
        values = values[:, :, :1] * y[:, None, 0, :, None] + values[:, :, 1:] * y[:, None, 1, :, None]
        return values[:, :1] * x[:, 0, :, None, None] + values[:, 1:] * x[:, 1, :, None, None]

    def exact(self, values: Tensor, cells: Tensor, fine: Tensor) -> Tensor:
        """(n,): torch's own value at one fine voxel (n, 3), numbered in its cell, of each cell (n, 3)."""
        for axis in (2, 1, 0):
            weights = self.weights[axis][cells[:, axis], :, fine[:, axis]]  # (n, 2)
            before, after = (weights[:, side].view(-1, *[1] * axis) for side in (0, 1))
            values = exact_lerp(values[..., 0], values[..., 1], before, after)
        return values

    def both_sides(self, voxels: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest over each cell's corners of (x, y, z) numbers."""
        least = largest = voxels
        for axis, sides in enumerate(self.sides):
            low, high = sides.unbind(1)
            least = torch.minimum(least.index_select(axis, low), least.index_select(axis, high))
            largest = torch.maximum(largest.index_select(axis, low), largest.index_select(axis, high))
        return least, largest


def paint(
    region: Region, axes: tuple[Axis, ...], kind: str, table: Tensor, rows: Tensor, start: list[int]
) -> None:
    """Write the labels of a region's cells into `rows`, which begin at fine voxel `start`.

    table: the label of each class; for regions first what is written where none is present.
    """
    decide = _softmax if kind == "softmax" else _regions
    for piece in region.pieces(axes, lambda piece: piece.voxels <= _AT_ONCE):
        cells = Cells(piece, axes)
        decide(cells, table, _Canvas(cells, rows, start))


@dataclass(frozen=True, eq=False)
class _Canvas:
    """The fine rows that labels are written into."""

    cells: Cells
    rows: Tensor
    start: list[int]

    def fill(self, labels: Tensor) -> None:
        """One label (x, y, z) per cell."""
        runs = [torch.from_numpy(axis.first)[c.start : c.stop + 1] - s for axis, c, s in self._axes()]
        for axis in (2, 1):
            labels = labels.repeat_interleave(runs[axis].diff().to(labels.device), axis)
        _, y, z = (slice(int(run[0]), int(run[-1])) for run in runs)
        for number, (begin, end) in enumerate(zip(runs[0][:-1].tolist(), runs[0][1:].tolist())):
            self.rows[begin:end, y, z] = labels[number]

    def dot(self, cells: Tensor, labels: Tensor) -> None:
        """Labels (n, nx, ny, nz) of the fine voxels of cells (n, 3)."""
        x, y, z = ((self.cells.fine[a][cells[:, a]] - self.start[a]) * self.rows.stride(a) for a in range(3))
        places = x[:, :, None, None] + y[:, None, :, None] + z[:, None, None, :]
        self.rows.view(-1).scatter_(0, places.reshape(-1), labels.reshape(-1))

    def _axes(self) -> Iterator[tuple[Axis, range, int]]:
        return zip(self.cells.axes, self.cells.region.cells, self.start)


def _softmax(cells: Cells, table: Tensor, canvas: _Canvas) -> None:
    blocks = _Blocks(cells.region.logits)
    winner, close = blocks.winners(cells.memory)
    first, last = cells.both_sides(winner)
    unsure = first != last
    if close.any():
        unsure |= cells.both_sides(close)[1].bool()
    canvas.fill(table[first.long()])
    found = unsure.nonzero()
    for some in found.split(_chunk(cells, blocks.classes)):
        at = tuple(some.unbind(1))
        labels = _contest(cells, blocks, some, first[at].long(), last[at].long())
        canvas.dot(some, table[labels])


def _contest(cells: Cells, blocks: _Blocks, some: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """(n, nx, ny, nz): the winning classes in cells (n, 3) of which two winners at corners are known."""
    corners = cells.corners(some)
    contest = _Contest(cells, some, corners)
    everyone = torch.arange(len(some), device=some.device)
    two = (first != last).nonzero()[:, 0]
    known = [(everyone, first), (two, last[two])]
    for who, number in known:
        contest.enter(who, number)
    sure = contest.best.flatten(1).amin(1)
    sure = sure - _ROUNDING * contest.reach - _SMALLEST
    rivals = blocks.largest[blocks.of(cells, some)] >= sure[:, None]  # (n, classes)
    rivals.scatter_(1, first[:, None], False).scatter_(1, last[:, None], False)
    rows, classes = _reaching(cells, corners, rivals.nonzero(), sure)
    rounds = list(_rounds(rows, classes))
    for who, number in rounds:
        contest.enter(who, number)
    return contest.settled([*known, *rounds])


def _reaching(cells: Cells, corners: Tensor, pairs: Tensor, sure: Tensor) -> tuple[Tensor, Tensor]:
    """Those pairs (cell, class) whose largest corner is at least what is sure to be reached."""
    kept = [pairs[:0]]
    for some in pairs.split(_AT_ONCE // 8):
        rows, classes = some.unbind(1)
        largest = cells.values(corners[rows], classes).flatten(1).amax(1)
        kept.append(some[largest >= sure[rows]])
    rows, classes = torch.cat(kept).unbind(1)
    return rows, classes


def _rounds(rows: Tensor, classes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs sorted by row, in rounds that have each row at most once."""
    _, counts = torch.unique_consecutive(rows, return_counts=True)
    starts = counts.cumsum(0) - counts
    for number in range(int(counts.max()) if len(counts) else 0):
        chosen = starts[counts > number] + number
        yield rows[chosen], classes[chosen]


class _Contest:
    """Classes enter one after the other; at each fine voxel of each cell the best so far stays."""

    def __init__(self, cells: Cells, some: Tensor, corners: Tensor) -> None:
        self._cells, self._some, self._corners = cells, some, corners
        n = [table.shape[1] for table in cells.fine]
        shape = (len(some), *n)
        self.best = torch.full(shape, -math.inf, device=some.device)
        self.reach = torch.zeros(len(some), device=some.device)  # the largest magnitude at a corner
        self.label = torch.zeros(shape, dtype=torch.int32, device=some.device)
        self.close = torch.zeros(shape, dtype=torch.bool, device=some.device)

    def enter(self, rows: Tensor, classes: Tensor) -> None:
        """One class each for the cells number `rows`."""
        values = self._cells.values(self._corners[rows], classes)
        self.reach[rows] = torch.maximum(self.reach[rows], values.flatten(1).abs().amax(1))
        value, best = self._cells.spread(values, self._some[rows]), self.best[rows]
        ahead = value - best
        error = (_ROUNDING * self.reach[rows] + _SMALLEST)[:, None, None, None]
        self.close[rows] = (ahead.abs() <= error) | (self.close[rows] & (ahead <= error))
        self.label[rows] = torch.where(ahead > 0, classes.int()[:, None, None, None], self.label[rows])
        self.best[rows] = torch.maximum(value, best)

    def settled(self, entries: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The winners, after those closer than rounding have been compared exactly."""
        for some in self.close.nonzero().split(_AT_ONCE // 16):
            self.label[tuple(some.unbind(1))] = self._exact(some, entries)
        return self.label.long()

    def _exact(self, voxels: Tensor, entries: list[tuple[Tensor, Tensor]]) -> Tensor:
        """(n,): the winning class of voxels (n, 4): cell, and place in it. The lowest of equals."""
        cell, fine = voxels[:, 0], voxels[:, 1:]
        best = torch.full((len(voxels),), -math.inf, device=voxels.device)
        label = torch.full_like(cell, torch.iinfo(torch.int32).max)
        entered = torch.full((len(self._some),), -1, device=voxels.device)
        for rows, classes in entries:
            entered.fill_(-1)[rows] = classes
            here = (entered[cell] >= 0).nonzero()[:, 0]
            number = entered[cell[here]]
            values = self._cells.values(self._corners[cell[here]], number)
            value = self._cells.exact(values, self._some[cell[here]], fine[here])
            wins = (value > best[here]) | ((value == best[here]) & (number < label[here]))
            best[here] = torch.where(wins, value, best[here])
            label[here] = torch.where(wins, number, label[here])
        return label.int()


class _Blocks:
    """Logits (classes, x, y, z) seen in blocks of voxels, each with the largest value of every class.

    A block's largest values include the voxels just after it, so that they hold for the cells that begin in
    it.
    """

    def __init__(self, logits: Tensor) -> None:
        self.classes, *shape = logits.shape
        self._logits = logits
        self.shape = [-(-n // _BLOCK) for n in shape]
        self.top = logits[0].clone(memory_format=torch.contiguous_format)  # (x, y, z): the best logit
        largest = logits.new_empty((self.classes, *self.shape))
        step = max(1, _AT_ONCE // self.top.numel())
        for begin in range(0, self.classes, step):
            some = logits[begin : begin + step]
            torch.maximum(self.top, some[0] if len(some) == 1 else some.amax(0), out=self.top)
            largest[begin : begin + step] = _pooled(some)
        self.largest = largest.flatten(1).t().contiguous()  # (blocks, classes)

    def of(self, cells: Cells, some: Tensor) -> Tensor:
        """(n,): the block in which each cell (n, 3) begins."""
        x, y, z = (sides[some[:, a], 0] // _BLOCK for a, sides in enumerate(cells.sides))
        return (x * self.shape[1] + y) * self.shape[2] + z

    def winners(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(x, y, z) each: the first of the best classes, and 1 where another is as good within rounding."""
        least = self.top - 2 * _ROUNDING * self.top.abs() - _SMALLEST
        able = self.largest >= -_pooled(-least[None])[0].reshape(-1, 1)  # (blocks, classes)
        counts = able.sum(1)
        kind = torch.uint8 if self.classes <= 256 else torch.int32
        winner = able.byte().argmax(1).to(kind).view(self.shape)
        for axis, n in enumerate(self.top.shape):
            winner = winner.repeat_interleave(_BLOCK, axis).narrow(axis, 0, n)
        winner = winner.contiguous()
        close = torch.zeros_like(winner, dtype=torch.uint8)
        many = (counts > 1).nonzero()[:, 0]
        many = many[counts[many].argsort(descending=True, stable=True)]
        for some in many.split(_AT_ONCE // 2 // _BLOCK**3):
            self._decide(some, able[some], least, memory, winner, close)
        return winner, close

    def _decide(
        self, some: Tensor, able: Tensor, least: Tensor, memory: Tensor, winner: Tensor, close: Tensor
    ) -> None:
        """Find the winners in blocks (n,), which have the most possible winners first."""
        voxels = self._voxels(some)  # three of (n, block, 1, 1), (n, 1, block, 1), (n, 1, 1, block)
        places, inner = (
            sum((v * s for v, s in zip(voxels, steps)), torch.zeros((), dtype=torch.long, device=some.device))
            for steps in (self._logits.stride()[1:], self.top.stride())
        )
        top, least = _taken(self.top.view(-1), inner), _taken(least.view(-1), inner)
        found = torch.full_like(inner, -1, dtype=torch.int32)
        near = torch.zeros_like(inner, dtype=torch.int32)
        for rows, classes in _rounds(*able.nonzero().unbind(1)):
            n = len(rows)  # rows are 0 … n - 1, as blocks are sorted by how many they have
            values = _taken(memory, places[:n] + (classes * self._logits.stride(0))[:, None, None, None])
            near[:n] += values >= least[:n]
            first = (found[:n] < 0) & (values == top[:n])
            found[:n] = torch.where(first, classes.int()[:, None, None, None], found[:n])
        winner.view(-1)[inner.view(-1)] = found.clamp(min=0).view(-1).to(winner.dtype)
        close.view(-1)[inner.view(-1)] = (near > 1).view(-1).byte()

    def _voxels(self, some: Tensor) -> list[Tensor]:
        steps = torch.arange(_BLOCK, device=some.device)
        _, ny, nz = self.shape
        begins = (some // (ny * nz), some // nz % ny, some % nz)
        return [
            (begin[:, None] * _BLOCK + steps)
            .clamp(max=n - 1)
            .view(-1, *(_BLOCK if a == b else 1 for b in range(3)))
            for a, (begin, n) in enumerate(zip(begins, self.top.shape))
        ]


def _taken(memory: Tensor, places: Tensor) -> Tensor:
    return memory.index_select(0, places.reshape(-1)).view(places.shape)


def _pooled(values: Tensor) -> Tensor:
    """(n, x, y, z) → (n, blocks…): the largest of each block and of the voxels just after it."""
    for axis in (1, 2, 3):
        n = values.shape[axis]
        whole = n // _BLOCK
        parts = []
        if whole:
            full = values.narrow(axis, 0, whole * _BLOCK).unflatten(axis, (whole, _BLOCK))
            parts.append(full.amax(axis + 1))
        if n % _BLOCK:
            parts.append(values.narrow(axis, whole * _BLOCK, n % _BLOCK).amax(axis, keepdim=True))
        after = values[(slice(None),) * axis + (slice(_BLOCK, None, _BLOCK),)]
        values = torch.cat(parts, axis)
        inner = values.narrow(axis, 0, after.shape[axis])
        torch.maximum(inner, after, out=inner)
    return values


def _chunk(cells: Cells, classes: int) -> int:
    """How many cells at once keep temporaries small."""
    per_cell = max(math.prod(table.shape[1] for table in cells.fine), classes, 8)
    return max(1, _AT_ONCE // per_cell)


def _regions(cells: Cells, table: Tensor, canvas: _Canvas) -> None:
    """Later regions are written over earlier ones, each where its logit is above 0."""
    logits = cells.region.logits
    shape = [len(c) for c in cells.region.cells]
    label = torch.zeros(shape, dtype=torch.int32, device=logits.device)
    mixed = torch.zeros((len(logits), *shape), dtype=torch.bool, device=logits.device)
    for number, one in enumerate(logits):
        least, largest = cells.both_sides((one > 0).byte() + (one > _SMALLEST).byte())
        label.masked_fill_(least == 2, number + 1)
        mixed[: number + 1] &= least != 2
        mixed[number] = (least < 2) & (largest > 0)
    canvas.fill(table[label.long()])
    found = mixed.any(0).nonzero()
    for some in found.split(_chunk(cells, len(logits))):
        at = tuple(some.unbind(1))
        labels = _overlay(cells, some, label[at], mixed[(slice(None), *at)].t())
        canvas.dot(some, table[labels.long()])


def _overlay(cells: Cells, some: Tensor, label: Tensor, mixed: Tensor) -> Tensor:
    """(n, nx, ny, nz): the last region that is present, where `mixed` (n, regions) may or may not be."""
    corners = cells.corners(some)
    n = [table.shape[1] for table in cells.fine]
    labels = label[:, None, None, None].expand(-1, *n).contiguous()
    for rows, classes in _rounds(*mixed.nonzero().unbind(1)):
        values = cells.values(corners[rows], classes)
        value = cells.spread(values, some[rows])
        error = _ROUNDING * values.flatten(1).abs().amax(1) + _SMALLEST
        near = (value.abs() <= error[:, None, None, None]).nonzero()
        row = near[:, 0]
        value[tuple(near.unbind(1))] = cells.exact(values[row], some[rows[row]], near[:, 1:])
        labels[rows] = torch.where(value > 0, (classes + 1).int()[:, None, None, None], labels[rows])
    return labels
