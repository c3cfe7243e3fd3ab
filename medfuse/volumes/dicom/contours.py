"""Masks as contours along the edges of their voxels, holes joined to their rims; and contours filled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_EXACT = 6
"""Decimals of an index that count: what inverting an affine leaves beyond them decides about no voxel."""

_AT_ONCE = 1 << 22  # voxels, and crossings of lines


def traced(mask: npt.NDArray[np.bool_]) -> Iterator[tuple[int, Floats]]:
    """The contours of (i, j, k) voxels: their slice k, and corners (n, 2) as indices (i, j), all halves.

    Each part of a slice, of voxels that share an edge, is one closed contour, whose first corner is not
    repeated. A hole is joined to it by a keyhole: a way in and back along one line between voxels. So a
    voxel lies inside by the even-odd rule where it is set, and nowhere else.
    """
    step = max(1, _AT_ONCE // (mask.shape[0] * mask.shape[1]))
    for first in range(0, mask.shape[2], step):
        for k, corners in _traced(mask[:, :, first : first + step]):
            yield first + k, corners


def _traced(mask: npt.NDArray[np.bool_]) -> Iterator[tuple[int, Floats]]:
    at, turns_in, following = _corners(mask)
    if not len(at):
        return
    loops = _loops(following)
    starts = _first_of_each(loops, at)
    holes = starts[turns_in[starts]]
    points, after = at.tolist(), following.tolist()
    _join(holes, mask, at, following, points, after)
    for first in starts[~turns_in[starts]].tolist():
        ring, here = [points[first]], after[first]
        while here != first:
            if points[here] != ring[-1]:
                ring.append(points[here])
            here = after[here]
        if ring[-1] == ring[0]:
            ring.pop()
        yield ring[0][0], np.array(ring, np.float64)[:, [2, 1]] - 0.5


def _corners(mask: npt.NDArray[np.bool_]) -> tuple[Ints, npt.NDArray[np.bool_], Ints]:
    """Where outlines turn: (k, j, i) of the corner, whether it is the first of a hole if it is the first of
    its outline, and the corner that follows, with the mask to the right where j points down.

    Voxels that share a corner alone are parted there, so that two corners stand in one place.
    """
    wide = np.pad(mask, ((1, 1), (1, 1), (0, 0))).transpose(2, 1, 0).view(np.uint8)
    around = wide[:, :-1, :-1] | wide[:, :-1, 1:] << 1 | wide[:, 1:, :-1] << 2 | wide[:, 1:, 1:] << 3
    places = np.flatnonzero(_TURNS[around])
    found = np.column_stack(np.unravel_index(places, around.shape))
    kinds = around.ravel()[places]
    twice = np.isin(kinds, [kind for kind, ways in _WAYS.items() if len(ways) > 1])
    at = np.concatenate([found, found[twice]])
    comes, leaves = (
        np.concatenate([_table(0, which)[kinds], _table(1, which)[kinds[twice]]]) for which in (0, 1)
    )
    following = np.empty(len(at), np.int64)
    for way in ("+i", "-i", "+j", "-j"):
        starts, ends = np.flatnonzero(leaves == way), np.flatnonzero(comes == way)
        by = (0, 1, 2) if way[1] == "i" else (0, 2, 1)
        following[_ordered(starts, at, by)] = _ordered(ends, at, by)
    return at, (comes == "-i") & (leaves == "+j"), following


_WAYS = {  # which of the four voxels around a corner are set → how the outline comes to it and leaves
    1: (("+j", "-i"),),
    2: (("-i", "-j"),),
    4: (("+i", "+j"),),
    8: (("-j", "+i"),),
    7: (("-i", "+j"),),
    11: (("-j", "-i"),),
    13: (("+j", "+i"),),
    14: (("+i", "-j"),),
    6: (("-i", "-j"), ("+i", "+j")),
    9: (("-j", "+i"), ("+j", "-i")),
}
_TURNS = np.isin(np.arange(16), [*_WAYS])


def _table(outline: int, which: int) -> npt.NDArray[np.str_]:
    """By the voxels around a corner, how its first or second outline comes (0) or leaves (1)."""
    ways = [_WAYS.get(kind, ()) for kind in range(16)]
    return np.array([way[min(outline, len(way) - 1)][which] if way else "" for way in ways])


def _ordered(some: Ints, at: Ints, by: Sequence[int]) -> Ints:
    """Of edges along one line none touch, so that the first that starts is the first that ends."""
    return some[np.lexsort([at[some, axis] for axis in reversed(by)])]


def _loops(following: Ints) -> Ints:
    """The number of the outline that each corner belongs to."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(following)
    graph = coo_array((np.ones(n, np.int8), (np.arange(n), following)), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _first_of_each(loops: Ints, at: Ints) -> Ints:
    """The corner of each outline with the least i, and of those the least j."""
    order = np.lexsort((at[:, 1], at[:, 2], loops))
    return order[np.unique(loops[order], return_index=True)[1]]


def _join(
    holes: Ints,
    mask: npt.NDArray[np.bool_],
    at: Ints,
    following: Ints,
    points: list[list[int]],
    after: list[int],
) -> None:
    """Leads the outline to the left of each hole into it and back, along the line of its first corner.

    Both sides of that line are set up to an edge along -j, which belongs to one outline alone.
    """
    edges = np.flatnonzero((at[following][:, 2] == at[:, 2]) & (at[following][:, 1] < at[:, 1]))
    edges = edges[np.lexsort((at[edges, 1], at[edges, 2], at[edges, 0]))]
    span = np.array(mask.shape)[::-1] + 1
    keys = np.ravel_multi_index(tuple(at[edges][:, [0, 2, 1]].T), (span[0], span[2], span[1]))
    before = np.empty_like(following)
    before[following] = np.arange(len(following))
    ways = []
    for hole in holes.tolist():
        k, j, i = points[hole]
        both = mask[:i, j - 1, k] & mask[:i, j, k]
        gone = np.flatnonzero(~both[::-1])
        reached = i - int(gone[0]) if len(gone) else 0
        key = np.ravel_multi_index((k, reached, j), (span[0], span[2], span[1]))
        ways.append((int(edges[np.searchsorted(keys, key)]), -j, reached, hole))
    last: dict[int, int] = {}
    for edge, minus_j, reached, hole in sorted(ways):
        k, j, i = points[hole]
        here = last.get(edge, edge)
        n = len(points)
        points += [[k, -minus_j, reached], [k, j, i], [k, -minus_j, reached]]
        after += [hole, n + 2, after[here]]
        after[here], after[int(before[hole])] = n, n + 1
        last[edge] = n + 2


def filled(contours: Sequence[Floats], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The voxels (i, j) of a slice whose centres lie inside contours (n, 2), by the even-odd rule.

    A centre on a contour lies inside where the area is on the side of growing indices.
    """
    ends = [np.round(contour, _EXACT) for contour in contours]
    low = np.concatenate(ends)
    high = np.concatenate([np.roll(contour, -1, axis=0) for contour in ends])
    turned = low[:, 1] > high[:, 1]
    low[turned], high[turned] = high[turned], low[turned]  # there and back is then the same line
    first, last = (np.clip(np.ceil(end[:, 1]), 0, shape[1]).astype(np.int64) for end in (low, high))
    toggled: npt.NDArray[Any] = np.zeros((shape[0] + 1, shape[1]), np.uint8)
    step = max(1, _AT_ONCE // max(1, shape[1]))
    for some in (slice(start, start + step) for start in range(0, len(low), step)):
        rows = last[some] - first[some]
        edge = np.repeat(np.arange(len(rows)), rows)
        j = np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows) + first[some][edge]
        (x, y), (to_x, to_y) = low[some][edge].T, high[some][edge].T
        crossed = np.round(x + (j - y) * ((to_x - x) / (to_y - y)), _EXACT)
        i = np.clip(np.ceil(crossed), 0, shape[0]).astype(np.int64)
        np.bitwise_xor.at(toggled, (i, j), np.uint8(1))
    inside: npt.NDArray[np.bool_] = np.bitwise_xor.accumulate(toggled, axis=0)[:-1].astype(bool)
    return inside
