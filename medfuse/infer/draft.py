"""What windows that hardly overlap decide, and where they disagree: more windows need look there only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medfuse.infer.decide import Kind
from medfuse.infer.windows import Grid, Window, plan_grid

_UNSEEN, _AGREED, _DISPUTED = range(3)
_SURE = 20.0  # softmax and sigmoid are then 0 or 1 to eight digits


class Draft:
    """Decisions at every voxel of a grid: the likeliest class, or for regions which logits are above 0.

    Takes the logits of a grid's windows in its order. A voxel has the decision of the window that weighs it
    most; it is disputed where two windows decide differently.
    """

    def __init__(self, grid: Grid, classes: int, kind: Kind) -> None:
        self._classes, self._kind = classes, kind
        planes, dtype = _layout(classes, kind)
        self._decided: npt.NDArray[Any] = np.zeros((planes, *grid.shape), dtype)
        self._state = np.full(grid.shape, _UNSEEN, np.uint8)
        self._own = [[part.start for part in axis.own()] for axis in grid.axes]
        self._windows = zip(grid, grid.indices())

    @property
    def nbytes(self) -> int:
        """What it holds."""
        return self._decided.nbytes + self._state.nbytes

    def add(self, logits: Tensor) -> None:
        """Add the logits (classes, *window) of the next window."""
        window, index = next(self._windows)
        mine, where = self._decisions(logits), (slice(None), *window.where)
        before, state = self._decided[where], self._state[window.where]
        unseen = state == _UNSEEN
        state[~unseen & (before != mine).any(0)] = _DISPUTED
        state[unseen] = _AGREED
        # every window after this one that weighs a voxel more lies further along some axis, and overwrites it
        begin = (own[n] for own, n in zip(self._own, index))
        x, y, z = (slice(first - part.start, None) for first, part in zip(begin, window.where))
        unseen[x, y, z] = True
        np.copyto(before, mine, where=unseen)

    def settles(self, window: Window) -> bool:
        """Whether nothing in it is disputed."""
        return bool((self._state[window.where] != _DISPUTED).all())

    def logits(self, window: Window, device: torch.device) -> Tensor:
        """(classes, *window) that say what was decided; they take no room where that is one decision."""
        decided = self._decided[(slice(None), *window.where)]
        shape, same = decided.shape[1:], bool((decided == decided[:, :1, :1, :1]).all())
        if same:
            decided = decided[:, :1, :1, :1]
        if self._kind == "softmax":
            values = torch.arange(self._classes)[:, None, None, None] == torch.from_numpy(
                decided.astype(np.int64)
            )
        else:
            bits = np.unpackbits(decided, axis=0, count=self._classes)
            values = torch.from_numpy(bits.astype(np.bool_))
        logits = torch.where(values.to(device), _SURE, -_SURE).half()
        return logits.expand(-1, *shape) if same else logits

    def _decisions(self, logits: Tensor) -> npt.NDArray[Any]:
        if self._kind == "softmax":
            return logits.argmax(0, keepdim=True).cpu().numpy().astype(self._decided.dtype)
        return np.packbits((logits > 0).cpu().numpy(), axis=0)


def first_pass(grid: Grid, overlap: float | None) -> Grid | None:
    """Windows of this overlap over the same volume, where one is given and they are fewer."""
    few = None if overlap is None else plan_grid(grid.shape, grid.window, overlap)
    return few if few and len(few) < len(grid) else None


def draft_bytes(grid: Grid, classes: int, kind: Kind) -> int:
    """What a `Draft` will hold."""
    planes, dtype = _layout(classes, kind)
    return (1 + planes * dtype.itemsize) * math.prod(grid.shape)


def _layout(classes: int, kind: Kind) -> tuple[int, np.dtype[Any]]:
    """How many numbers a decision is, and of which type: a class, or a bit for each region."""
    if kind == "softmax":
        return 1, np.min_scalar_type(classes - 1)
    return math.ceil(classes / 8), np.dtype(np.uint8)
