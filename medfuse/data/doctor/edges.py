"""How well the border of the labels lies on edges of the image, there and moved by some voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, gaussian_filter

from medfuse.data.doctor.shrink import means, middles, steps_for

POINTS = 600
"""Of the border that are looked at."""
_MARGIN = 12
_MOST = 96
_OFFSETS = np.array([-8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8])


@dataclass(frozen=True)
class Edges:
    """Agreement of border and edges where the labels lie (`here`), and at the best offset in voxels (RAS+);
    `inward`: by how much the inside is brighter than the outside, in deviations, of each channel."""

    here: float
    best: float
    offset: tuple[int, int, int]
    inward: tuple[float, ...]


def edges_of(
    image: npt.NDArray[Any], labels: npt.NDArray[Any], box: tuple[slice, slice, slice], seed: int
) -> Edges | None:
    """`image` (channels, x, y, z) of bytes and `labels` (x, y, z), RAS+. None where the border is short."""
    cut = tuple(
        slice(max(0, side.start - _MARGIN), min(n, side.stop + _MARGIN)) for side, n in zip(box, labels.shape)
    )
    steps = steps_for([side.stop - side.start for side in cut], _MOST)
    inside = middles(labels[cut], steps) != 0
    if min(inside.shape) < 3:
        return None
    soft = gaussian_filter(inside.astype(np.float32), 1.0)
    border = inside & ~binary_erosion(inside, border_value=1)
    points = np.argwhere(border)
    if len(points) < 30:
        return None
    if len(points) > POINTS:
        points = np.random.default_rng(seed).choice(points, POINTS, replace=False)
    normals = np.stack([-g[tuple(points.T)] for g in np.gradient(soft)], 1)
    length = np.linalg.norm(normals, axis=1)
    points, normals = points[length > 0.02], normals[length > 0.02] / length[length > 0.02, None]
    total, inward = np.zeros((len(_OFFSETS),) * 3), []
    for channel in image:
        smooth = gaussian_filter(means(channel[cut], steps), 0.7)
        gradient = np.stack(np.gradient(smooth))
        strength = np.linalg.norm(gradient, axis=0)
        gradient = gradient / (strength + np.median(strength[border]) + 1e-3)
        total += _agreement(gradient, points, normals)
        inward.append(_inward(smooth, points, normals))
    total /= len(image)
    zero = int(np.flatnonzero(_OFFSETS == 0)[0])
    best = np.unravel_index(int(total.argmax()), total.shape)
    x, y, z = (int(_OFFSETS[i]) * step for i, step in zip(best, steps))
    return Edges(float(total[zero, zero, zero]), float(total[best]), (x, y, z), tuple(inward))


def _agreement(
    gradient: npt.NDArray[np.float32], points: npt.NDArray[np.int64], normals: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """The mean length of the gradient along the normals, at each offset along x, y and z."""
    shape = gradient.shape[1:]
    x, y, z = (np.clip(points[:, a, None] + _OFFSETS, 0, n - 1) for a, n in enumerate(shape))
    flat = ((x * shape[1])[:, :, None, None] + y[:, None, :, None]) * shape[2] + z[:, None, None, :]
    along = np.zeros(flat.shape, np.float32)
    for part, normal in zip(gradient, normals.T):
        along += part.reshape(-1)[flat] * normal[:, None, None, None]
    return np.asarray(np.abs(along).mean(axis=0, dtype=np.float64))


def _inward(
    smooth: npt.NDArray[np.float32], points: npt.NDArray[np.int64], normals: npt.NDArray[np.float32]
) -> float:
    def at(distance: float) -> npt.NDArray[np.float32]:
        moved = np.rint(points + distance * normals).astype(int)
        return smooth[tuple(np.clip(moved[:, a], 0, n - 1) for a, n in enumerate(smooth.shape))]

    inner, outer = at(-1.5), at(2.0)
    spread = float(np.concatenate([inner, outer]).std())
    return float((inner - outer).mean()) / spread if spread > 0 else 0.0
