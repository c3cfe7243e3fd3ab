"""Connected components of a mask that comes slice by slice: how large each is."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


class Components:
    """Parts of a mask that touch, at corners too. Only the last slice, and the size of each part, is kept."""

    def __init__(self) -> None:
        self._sizes: list[Numbers] = [np.zeros(1, np.int64)]
        self._count = 1
        self._joined: list[Numbers] = []
        self._last: tuple[int, tuple[int, int], Numbers] | None = None

    def add(self, corner: tuple[int, int, int], mask: Mask) -> None:
        """The next voxels (i, j, k), the first of which lies at `corner`, of all that there are in these
        slices."""
        from scipy.ndimage import generate_binary_structure, label

        numbers, found = label(mask, generate_binary_structure(3, 3))
        self._sizes.append(np.bincount(numbers.ravel(), minlength=found + 1)[1:])
        place = corner[:2]
        if self._last and self._last[0] == corner[2] - 1:
            self._join(place, self._numbered(numbers[:, :, 0]))
        self._last = (corner[2] + mask.shape[2] - 1, place, self._numbered(numbers[:, :, -1]))
        self._count += found

    def _numbered(self, numbers: npt.NDArray[np.int32]) -> Numbers:
        return np.where(numbers, numbers.astype(np.int64) + (self._count - 1), 0)

    def _join(self, place: tuple[int, int], numbers: Numbers) -> None:
        """Parts of this slice and of the one before that touch."""
        assert self._last is not None
        _, before, last = self._last
        low = [min(a, b) - 1 for a, b in zip(place, before)]
        high = [max(a + n, b + m) + 1 for a, n, b, m in zip(place, numbers.shape, before, last.shape)]
        here, there = (np.zeros((high[0] - low[0], high[1] - low[1]), np.int64) for _ in range(2))
        for whole, start, part in ((here, place, numbers), (there, before, last)):
            i, j = start[0] - low[0], start[1] - low[1]
            whole[i : i + part.shape[0], j : j + part.shape[1]] = part
        for shift in product((-1, 0, 1), repeat=2):
            moved = np.roll(there, shift, (0, 1))  # its edge is empty
            both = (here > 0) & (moved > 0)
            if both.any():
                self._joined.append(_once(here[both], moved[both]))

    def sizes(self) -> list[int]:
        """Voxels of each component, the largest first."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        sizes = np.concatenate(self._sizes)
        if self._joined:
            one, other = np.concatenate(self._joined, axis=1)
            graph = coo_array((np.ones(len(one), bool), (one, other)), (len(sizes), len(sizes)))
            _, which = connected_components(graph, directed=False)
            sizes = np.bincount(which, weights=sizes).astype(np.int64)
        return np.sort(sizes[sizes > 0])[::-1].tolist()


def _once(one: Numbers, other: Numbers) -> Numbers:
    """Pairs (2, n) without those that are there again; most are equal to the one before."""
    fresh = np.ones(len(one), bool)
    fresh[1:] = (np.diff(one) != 0) | (np.diff(other) != 0)
    return np.unique(np.stack([one[fresh], other[fresh]]), axis=1)
