"""How many pieces each class is in, counted while labels come in bricks: one slab of them is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.quality.components import Components

_AT_ONCE = 1 << 20  # voxels that are numbered together


class Pieces:
    """Takes labels (x, y, z) brick by brick; bricks tile the volume, `sweep` outermost.

    What touches at corners, too, is one piece. Class 0 is the background, and is not counted.
    """

    def __init__(self, shape: Sequence[int], classes: int, *, sweep: int) -> None:
        self._shape, self._sweep = tuple(shape), sweep
        self._across = tuple(a for a in range(3) if a != sweep)
        self._components = [Components() for _ in range(classes - 1)]
        self._slab: npt.NDArray[Any] | None = None
        self._start = 0

    def add(self, where: Sequence[slice], labels: npt.NDArray[Any]) -> None:
        slab = labels.transpose(*self._across, self._sweep)
        one, other = (where[a] for a in self._across)
        full = [self._shape[a] for a in self._across]
        if self._slab is None:
            self._slab = np.empty((*full, slab.shape[2]), labels.dtype)
            self._start = where[self._sweep].start
        self._slab[one, other] = slab
        if [one.stop, other.stop] == full:
            step = max(1, _AT_ONCE // (full[0] * full[1]))
            for begin in range(0, self._slab.shape[2], step):
                self._number(self._start + begin, self._slab[:, :, begin : begin + step])
            self._slab = None

    def _number(self, start: int, slab: npt.NDArray[Any]) -> None:
        from scipy.ndimage import find_objects

        boxes = find_objects(slab if slab.dtype == np.int32 else slab.astype(np.uint8, copy=False))
        for value, box in enumerate(boxes[: len(self._components)], 1):
            if box is not None:
                corner = (box[0].start, box[1].start, start + box[2].start)
                self._components[value - 1].add(corner, slab[box] == value)

    def sizes(self) -> list[list[int]]:
        """Voxels of each piece of each class but the background, the largest first."""
        return [components.sizes() for components in self._components]
