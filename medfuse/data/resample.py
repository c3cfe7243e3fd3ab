"""Linear interpolation of a volume that comes slab by slab, about its outer edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medfuse.core.geometry import Geometry
from medfuse.volumes.volume import rows_per_slab

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Taps:
    """What each voxel of a resampled axis is made of: `first` · (1 - weight) + `second` · weight."""

    first: npt.NDArray[np.intp]
    second: npt.NDArray[np.intp]
    weight: Floats

    @classmethod
    def of(cls, voxels: int, wanted: int, *, flipped: bool = False) -> Taps:
        """Centres lie at half indices, as with `interpolate(align_corners=False)`, rounded as torch rounds.

        A `flipped` axis is sampled where it would be had it been turned first, to the last bit.
        """
        scale = np.float32(voxels) / np.float32(wanted)
        centre = np.arange(wanted, dtype=np.float32) + np.float32(0.5)
        at = np.maximum((centre.astype(np.float64) * scale - 0.5).astype(np.float32), 0)
        first = np.minimum(at.astype(np.intp), voxels - 1)
        second = np.minimum(first + 1, voxels - 1)
        weight = np.clip(at - first.astype(np.float32), 0, 1)
        if flipped:
            return cls(voxels - 1 - first[::-1], voxels - 1 - second[::-1], weight[::-1])
        return cls(first, second, weight)

    def on(self, array: Floats, axis: int) -> Floats:
        """The array with this axis resampled."""
        if np.array_equal(self.first, np.arange(array.shape[axis])) and not self.weight.any():
            return array
        weight = self.weight.reshape([-1 if a == axis else 1 for a in range(array.ndim)])
        made = array.take(self.first, axis)
        made *= 1 - weight
        other = array.take(self.second, axis)
        other *= weight
        made += other
        return made


class SlabResampler:
    """Fills `out` (i, j, k on the new grid, a view in the file's axes) from the slabs of a volume.

    numpy on one thread, on purpose: torch's threads would compete with those of the network, for which the
    next case is being read. Only the rows that are used are resampled, and of what came before, one is kept.
    """

    def __init__(self, geometry: Geometry, out: Floats) -> None:
        self._out = out
        flipped = dict(zip(geometry.turn.axes, geometry.turn.flipped))
        self._i, self._j, self._k = (
            Taps.of(geometry.shape[axis], out.shape[axis], flipped=flipped[axis]) for axis in range(3)
        )
        self._last = np.maximum(self._k.first, self._k.second)  # the row with which each new one is complete
        self._used = np.union1d(self._k.first, self._k.second)
        self._at = np.zeros(0, np.intp)
        self._rows: Floats = np.zeros((0, out.shape[1], out.shape[0]), np.float32)

    @staticmethod
    def bytes_for(shape: Sequence[int], wanted: Sequence[int]) -> int:
        """About the most memory that resampling `shape` to `wanted` (i, j, k) takes beside `out`."""
        rows = min(shape[2], rows_per_slab(shape)) + 1
        between = max(shape[0] * wanted[1], wanted[0] * wanted[1])
        return 4 * rows * (shape[0] * shape[1] + 3 * between)

    def add(self, first: int, slab: Floats) -> None:
        """The next slab (i, j, rows), which begins at row `first`."""
        end = first + slab.shape[2]
        used = self._used[np.searchsorted(self._used, first) : np.searchsorted(self._used, end)]
        planes = slab.T if len(used) == slab.shape[2] else slab.T[used - first]
        planes = self._i.on(self._j.on(planes, 1), 2)
        self._at = np.concatenate([self._at, used])
        self._rows = np.concatenate([self._rows, planes]) if len(self._rows) else planes
        begin, stop = np.searchsorted(self._last, [first, end])
        if stop > begin:
            whole = Taps(
                np.searchsorted(self._at, self._k.first[begin:stop]),
                np.searchsorted(self._at, self._k.second[begin:stop]),
                self._k.weight[begin:stop],
            )
            self._out[:, :, begin:stop] = whole.on(self._rows, 0).T
        self._at, self._rows = self._at[-1:], self._rows[-1:].copy()
