"""Where the frames of a SEG lie on the grid of an image: voxel on voxel, or nearest to its voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry
from medfuse.core.text import by
from medfuse.volumes.dicom.frames import Frame
from medfuse.volumes.dicom.place import Place
from medfuse.volumes.headers import LPS

ACROSS_MM = 0.01
"""By how much a corner of a frame may lie aside of the grid in its plane."""
ALONG_MM, ALONG = 0.1, 0.1
"""And along its normal: so much, and no more than this share of a slice."""
_PARALLEL = 2e-3
"""By how much of a voxel an axis may leave that of the image, voxel by voxel."""

Floats = npt.NDArray[np.float64]
Picks = npt.NDArray[np.intp]


class Slices(BaseModel):
    """Where the slices of a SEG are that lie parallel to those of an image, but elsewhere.

    heights: along the image's axis `axis`, in its voxels, in order. A slice of the image takes what lies at
    the nearest height, no further away than half of `step`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    axis: int
    heights: tuple[float, ...]
    step: float


@dataclass(frozen=True, eq=False)
class Spot:
    """Where a frame lies in a volume: its slice, and how its rows and columns become axes.

    picks: the columns and the rows that voxels there take, where these are not simply all of them.
    """

    where: tuple[int | slice, ...]
    inside: bool
    swapped: bool
    flips: tuple[int, int] = (1, 1)
    picks: tuple[Picks, Picks] | None = None

    def turned(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(row, column) in the order of the volume's axes."""
        if self.picks is None:
            across = pixels.T[:: self.flips[0], :: self.flips[1]]
        else:
            across = pixels.T[np.ix_(*self.picks)]
        return across.T if self.swapped else across


@dataclass(frozen=True, eq=False)
class Lies:
    """A frame in the voxels of an image. steps (3, 2): from column to column, and from row to row; origin:
    its first pixel. axes: those of the image that its columns and rows follow, and the third; None where it
    is not parallel to the image.
    """

    steps: Floats
    origin: Floats
    axes: tuple[int, int, int] | None

    @classmethod
    def of(cls, frame: Frame, like: Geometry) -> Lies:
        own = np.stack([frame.along_i or (), frame.along_j or ()], 1) * np.array(frame.pixel_mm)
        grid = like.affine[:3, :3]
        steps = np.linalg.solve(grid, own * LPS[:, None])
        origin = np.linalg.solve(grid, np.array(frame.position) * LPS - like.affine[:3, 3])
        i, j = (int(np.abs(steps[:, n]).argmax()) for n in (0, 1))
        aside = np.abs(steps)
        aside[i, 0] = aside[j, 1] = 0
        parallel = i != j and aside.max() <= _PARALLEL
        return cls(steps, origin, (i, j, 3 - i - j) if parallel else None)


def spot_of(place: Place, frame: Frame, like: Geometry) -> Spot:
    """Raises DataError where the frame is on another grid."""
    grid, lies = like.affine[:3, :3], Lies.of(frame, like)
    whole, first = np.rint(lies.steps), np.rint(lies.origin)
    if (np.abs(whole).sum(0) == 1).all() and (np.abs(whole).sum(1) <= 1).all():
        i, j = (int(np.abs(whole[:, n]).argmax()) for n in (0, 1))
        (k,) = {0, 1, 2} - {i, j}
        flips = int(whole[i, 0]), int(whole[j, 1])
        starts = [0 if flip > 0 else like.shape[axis] - 1 for axis, flip in zip((i, j), flips)]
        own = grid @ lies.steps
        drift = np.abs(grid @ (lies.steps - whole)) * (np.array(frame.shape) - 1)
        aside = grid @ (lies.origin - first)
        normal = np.cross(own[:, 0], own[:, 1]) / np.linalg.norm(np.cross(own[:, 0], own[:, 1]))
        along = abs(aside @ normal)
        across = np.linalg.norm(aside - (aside @ normal) * normal) + drift.max()
        if (
            frame.shape == (like.shape[i], like.shape[j])
            and [first[i], first[j]] == starts
            and across <= ACROSS_MM
            and along <= min(ALONG_MM, ALONG * abs(float(grid[:, k] @ normal)))
        ):
            where: list[int | slice] = [slice(None)] * 3
            where[k] = int(first[k])
            return Spot(tuple(where), 0 <= first[k] < like.shape[k], i > j, flips)
    raise elsewhere(place, frame, like)


def elsewhere(place: Place, frame: Frame, like: Geometry) -> DataError:
    """What is said of a frame that is on another grid."""
    at, origin = np.array(frame.position) * LPS, _brief(like.origin)
    return DataError(
        f"{place}: its frames, {by(frame.shape)} pixels of {_brief(frame.pixel_mm or ())} mm from "
        f"{_brief(at)}, lie on another grid than the image, {by(like.shape)} voxels of "
        f"{_brief(like.spacing_mm)} mm from {origin}; resample one, or give the image that it is of"
    )


def _brief(numbers: Sequence[float] | Floats) -> str:
    return f"({', '.join(f'{number:.5g}' for number in numbers)})"


def slices_of(frames: Sequence[Frame], like: Geometry, known: Sequence[Frame] = ()) -> Slices | None:
    """The slices that parallel frames lie in; None where they are not parallel to the image's.

    known: the frames of the image's series as they were before slices were resampled. Where there are none,
    slices are as far apart as the two nearest frames, or as one is thick.
    """
    lies = [Lies.of(frame, like) for frame in (*frames, *known)]
    axes = lies[0].axes
    if axes is None or any(one.axes != axes for one in lies):
        return None
    at = np.unique(np.round([one.origin[axes[2]] for one in (lies[len(frames) :] or lies)], 3))
    gaps = np.diff(at)
    thick = (frames[0].thickness_mm or 0) / like.spacing_mm[axes[2]]
    step = float(gaps.max() if known else gaps.min()) if len(gaps) else thick or 1.0
    return Slices(axis=axes[2], heights=tuple(at.tolist()), step=max(step, 1.0))


def nearest_spots(place: Place, frame: Frame, like: Geometry, slices: Slices) -> list[Spot]:
    """Where a frame that is on another grid is nearest to the image's voxels; nowhere, perhaps.

    Raises DataError where it is not parallel to the image.
    """
    lies = Lies.of(frame, like)
    if lies.axes is None or lies.axes[2] != slices.axis:
        raise elsewhere(place, frame, like)
    i, j, k = lies.axes
    heights, own = np.array(slices.heights), float(lies.origin[k])
    number = int(np.abs(heights - own).argmin())
    ks = np.arange(like.shape[k])
    nearest = np.abs(ks[:, None] - heights).argmin(1)
    there = ks[(nearest == number) & (np.abs(ks - heights[number]) <= slices.step / 2 + 1e-3)]
    sides, picks = [], []
    for axis, n in ((i, 0), (j, 1)):
        pick = np.rint((np.arange(like.shape[axis]) - lies.origin[axis]) / lies.steps[axis, n]).astype(
            np.intp
        )
        held = np.flatnonzero((pick >= 0) & (pick < frame.shape[n]))
        if not len(held):
            return []
        sides.append(slice(int(held[0]), int(held[-1]) + 1))
        picks.append(pick[held])
    spots = []
    for slice_number in there.tolist():
        where: list[int | slice] = [0, 0, 0]
        where[i], where[j], where[k] = sides[0], sides[1], slice_number
        spots.append(Spot(tuple(where), True, i > j, picks=(picks[0], picks[1])))
    return spots
