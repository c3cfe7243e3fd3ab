"""The grid of a stack: its axes in the patient, slices that are even, and moved until they stand upright."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medfuse.volumes.headers import LPS

UPRIGHT_DEGREES = 0.5
"""A stack that leans more than this, and by more than a pixel in all, is resampled."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """A slice of the volume: frames, by their place in the stack, with weights, moved by (i, j) pixels."""

    of: tuple[tuple[int, float], ...]
    shift: tuple[float, float] = (0.0, 0.0)


def as_they_are(count: int) -> tuple[Plane, ...]:
    """Slices that are one frame each."""
    return tuple(Plane(((n, 1.0),)) for n in range(count))


@dataclass(frozen=True, eq=False)
class Axes:
    """Of frames that are alike: unit vectors of column and row (LPS), pixels in mm, their number."""

    along_i: Floats
    along_j: Floats
    mm: tuple[float, float]
    shape: tuple[int, int]

    @property
    def normal(self) -> Floats:
        return np.cross(self.along_i, self.along_j)

    def affine(self, origin: Floats, step: Floats) -> Floats:
        """Index (i, j, k) → RAS+ mm, of slices that lie `step` apart from `origin` on."""
        made = np.eye(4)
        columns = [self.along_i * self.mm[0], self.along_j * self.mm[1], step, origin]
        made[:3] = np.stack(columns, axis=1) * LPS[:, None]
        return made


def evened(heights: Floats, step: float) -> tuple[tuple[Plane, ...], Floats]:
    """Slices at even heights, each between the two that are nearest, and those heights."""
    count = int(np.floor((heights[-1] - heights[0]) / step + 1e-6)) + 1
    even = heights[0] + step * np.arange(count)
    after = np.clip(np.searchsorted(heights, even - 1e-6 * step), 1, len(heights) - 1)
    share = np.clip((even - heights[after - 1]) / (heights[after] - heights[after - 1]), 0, 1)
    planes = tuple(
        Plane(tuple((int(n), float(w)) for n, w in ((a - 1, 1 - s), (a, s)) if w > 1e-6))
        for a, s in zip(after, share)
    )
    return planes, even


def upright(
    axes: Axes, planes: tuple[Plane, ...], at: Floats, heights: Floats
) -> tuple[tuple[int, int, int], Floats, tuple[Plane, ...], list[str]]:
    """Shape, affine, slices of a stack as it is, or where it leans on perpendicular axes, and what to tell.

    at: where each slice lies (LPS, mm); heights: how far along the normal.
    """
    count = len(planes)
    step = (at[-1] - at[0]) / (count - 1)
    height = (heights[-1] - heights[0]) / (count - 1)
    aside = np.array([step @ axes.along_i, step @ axes.along_j]) / axes.mm  # pixels from slice to slice
    degrees = float(np.degrees(np.arctan2(np.linalg.norm(step - height * axes.normal), height)))
    if degrees < UPRIGHT_DEGREES or np.abs(aside).max() * (count - 1) < 1:
        return (*axes.shape, count), axes.affine(at[0], step), planes, []
    moves = np.outer(np.arange(count), aside)
    low = np.floor(moves.min(0) + 1e-6)
    wide, high = (np.array(axes.shape) + np.ceil(moves.max(0) - 1e-6) - low).astype(int).tolist()
    origin = at[0] + low[0] * axes.mm[0] * axes.along_i + low[1] * axes.mm[1] * axes.along_j
    shifts = np.maximum(np.round(moves - low, 6), 0).tolist()  # to the left of 0 there is nothing
    moved = tuple(Plane(plane.of, (i, j)) for plane, (i, j) in zip(planes, shifts))
    told = f"slices lean by {degrees:.1f} degrees (gantry tilt): resampled to perpendicular axes"
    return (wide, high, count), axes.affine(origin, height * axes.normal), moved, [told]
