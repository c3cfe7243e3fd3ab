"""The surface of each class, from logits that come in bricks: how unsure it is there, where it is cut off.

A surface is the faces between two voxels of which one is of the class, on the network's grid. What is said
of a face is the mean of its two voxels. Sums are of whole numbers, so that no order of bricks changes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_STEPS = 65535  # into which 0 … 1 is divided

Labels = npt.NDArray[Any]
Places = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]
Measure = Callable[[Places], tuple[Numbers, Numbers]]
"""Places in a brick, counted as in memory → entropy and margin there, 0 … 1 (see `voxels`)."""


@dataclass(frozen=True)
class ClassSurface:
    """Of one class. What it has no number for is None: the class is nowhere, or everywhere.

    `entropy` and `margin`: means over its surface, by area, 0 … 1 (see `voxels`). `border`: the share of its
    surface that is the edge of the field of view, 0 … 1. `left_right`: the mean place of its voxels along
    x, 0 at the left edge and 1 at the right. `voxels`: how many there are.
    """

    voxels: int
    entropy: float | None
    margin: float | None
    border: float | None
    left_right: float | None


@dataclass(frozen=True, eq=False)
class _Part:
    """Some voxels: labels, and of those that matter `_STEPS` of entropy and margin."""

    labels: Labels
    entropy: npt.NDArray[np.int32]
    margin: npt.NDArray[np.int32]

    def at(self, places: Any) -> _Part:
        return _Part(self.labels[places], self.entropy[places], self.margin[places])

    def flat(self) -> _Part:
        return _Part(self.labels.reshape(-1), self.entropy.reshape(-1), self.margin.reshape(-1))


class Surface:
    """Takes labels brick by brick; bricks tile the volume, `sweep` outermost, then x, y, z.

    shape: of the volume (x, y, z). classes: how many numbers labels may be.
    """

    def __init__(
        self, shape: Sequence[int], spacing_mm: Sequence[float], classes: int, *, sweep: int
    ) -> None:
        self._shape, self._classes = tuple(shape), classes
        x, y, z = spacing_mm
        self._areas = np.array([[y * z], [x * z], [x * y]])
        self._order = (sweep, *(a for a in range(3) if a != sweep))
        self._behind: dict[int, _Part] = {}
        self._faces, self._edges, self._entropy, self._margin = (np.zeros((3, classes)) for _ in range(4))
        self._columns = np.zeros((self._shape[0], classes))

    def add(self, where: Sequence[slice], labels: Labels, measure: Measure) -> None:
        """The next brick (x, y, z), and what it is like at those of its voxels that matter."""
        labels = np.ascontiguousarray(labels)
        self._count(where, labels)
        inner = [_faces_inside(labels, axis) for axis in range(3)]
        brick = self._measured(where, labels, measure, inner)
        flat = brick.flat()
        for axis, (ones, others) in enumerate(inner):
            self._tell(axis, flat.at(ones), flat.at(others))
        for axis in self._order:
            if where[axis].start > 0:
                behind, first = self._recall(axis, where), brick.at(_plane(axis, 0))
                at = np.nonzero(behind.labels != first.labels)
                self._tell(axis, behind.at(at), first.at(at))
            if where[axis].stop < self._shape[axis]:
                self._keep(axis, where, brick.at(_plane(axis, -1)))

    def _count(self, where: Sequence[slice], labels: Labels) -> None:
        """Voxels by column and class, and those at the edge of the volume."""
        n = len(labels)
        place = labels.astype(np.int64) + self._classes * np.arange(n)[:, None, None]
        counts = np.bincount(place.ravel(), minlength=n * self._classes)
        self._columns[where[0]] += counts.reshape(n, -1)
        for axis, size in enumerate(self._shape):
            for end, is_edge in ((0, where[axis].start == 0), (-1, where[axis].stop == size)):
                if is_edge and size > 1:
                    self._edges[axis] += self._sums(labels.take(end, axis))

    def _measured(
        self,
        where: Sequence[slice],
        labels: Labels,
        measure: Measure,
        inner: Sequence[tuple[Places, Places]],
    ) -> _Part:
        """The brick, measured at the voxels that matter: at a face, or with a neighbour that comes later."""
        wanted = np.zeros(labels.shape, np.bool_)
        for pair in inner:
            for ends in pair:
                wanted.reshape(-1)[ends] = True
        for axis in range(3):
            if where[axis].start > 0:
                first = _plane(axis, 0)
                wanted[first] |= self._recall(axis, where).labels != labels[first]
            if where[axis].stop < self._shape[axis]:
                wanted[_plane(axis, -1)] = True
        at = np.flatnonzero(wanted)
        values = [np.zeros(labels.shape, np.int32) for _ in range(2)]
        for value, said in zip(values, measure(at)):
            value.reshape(-1)[at] = np.rint(said * _STEPS)
        return _Part(labels, *values)

    def _tell(self, axis: int, one: _Part, other: _Part) -> None:
        """Faces across an axis, each between a voxel of `one` and one of `other`."""
        if not one.labels.size:
            return
        labels = np.concatenate([one.labels, other.labels])
        self._faces[axis] += self._sums(labels)
        for total, mine, theirs in (
            (self._entropy, one.entropy, other.entropy),
            (self._margin, one.margin, other.margin),
        ):
            total[axis] += self._sums(labels, np.tile(mine + theirs, 2))

    def _sums(self, labels: Labels, weights: npt.NDArray[np.int32] | None = None) -> Numbers:
        """(classes,) of whole numbers, exact in float64."""
        found: Numbers = np.bincount(labels.ravel(), weights, minlength=self._classes).astype(np.float64)
        return found

    def _recall(self, axis: int, where: Sequence[slice]) -> _Part:
        return self._behind[axis].at(self._place(axis, where))

    def _place(self, axis: int, where: Sequence[slice]) -> tuple[slice, ...]:
        """Where a brick's plane lies in what is kept: whole along the axes that come after."""
        later = self._order[self._order.index(axis) + 1 :]
        return tuple(where[a] if a in later else slice(None) for a in range(3))

    def _keep(self, axis: int, where: Sequence[slice], plane: _Part) -> None:
        later = self._order[self._order.index(axis) + 1 :]
        if all(where[a].start == 0 for a in later):
            full = tuple(self._shape[a] if a in later else plane.labels.shape[a] for a in range(3))
            if axis not in self._behind or self._behind[axis].labels.shape != full:
                parts = (plane.labels, plane.entropy, plane.margin)
                self._behind[axis] = _Part(*(np.empty(full, part.dtype) for part in parts))
        kept = self._recall(axis, where)  # a view
        kept.labels[:], kept.entropy[:], kept.margin[:] = plane.labels, plane.entropy, plane.margin

    def found(self) -> list[ClassSurface]:
        """Of each class, once all bricks have come."""
        faces, edges = (self._areas * self._faces).sum(0), (self._areas * self._edges).sum(0)
        sums = [(self._areas * total).sum(0) / (2 * _STEPS) for total in (self._entropy, self._margin)]
        voxels = self._columns.sum(0)
        middle = (np.arange(self._shape[0]) + 0.5) / self._shape[0]
        places = (self._columns * middle[:, None]).sum(0)
        return [
            ClassSurface(
                int(voxels[c]),
                _ratio(sums[0][c], faces[c]),
                _ratio(sums[1][c], faces[c]),
                _ratio(edges[c], faces[c] + edges[c]),
                _ratio(places[c], voxels[c]),
            )
            for c in range(self._classes)
        ]


def _faces_inside(labels: Labels, axis: int) -> tuple[Places, Places]:
    """The places in memory of the two voxels of each face across an axis."""
    n = labels.shape[axis]
    one, other = (
        tuple(slice(None) if a != axis else part for a in range(3)) for part in (slice(0, n - 1), slice(1, n))
    )
    differ = np.zeros(labels.shape, np.bool_)
    np.not_equal(labels[one], labels[other], out=differ[one])
    at = np.flatnonzero(differ)
    return at, at + labels.strides[axis] // labels.itemsize


def _plane(axis: int, index: int) -> tuple[slice, ...]:
    """The first (0) or last (-1) plane across an axis."""
    part = slice(0, 1) if index == 0 else slice(-1, None)
    return tuple(part if a == axis else slice(None) for a in range(3))


def _ratio(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole > 0 else None
