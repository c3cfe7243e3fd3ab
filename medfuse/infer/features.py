"""Feature maps of whole volumes: each map stitched from windows on its own grid, and where that grid lies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from medfuse.core.errors import DataError, ShapeError
from medfuse.core.features import FeatureInfo
from medfuse.core.geometry import Geometry
from medfuse.core.prepared import Prepared
from medfuse.infer.windows import Axis, Grid, Window, gaussian

MapNetwork = Callable[[Tensor], Mapping[str, Tensor]]
"""Windows (batch, channels, *patch_size) → {name: map (batch, channels, *spatial)}."""

Pool = Literal["none", "mean", "max"]


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """A map of one case: `values` (channels, x, y, z), or (channels,) where it is pooled over the volume.

    `affine` goes from the map's index (x, y, z) to RAS+ mm, `stride` from there to voxels of the network's
    grid. What is image-level is one voxel, the mean over windows, whose stride is the whole volume.
    """

    name: str
    values: npt.NDArray[np.float32]
    stride: tuple[int, int, int]
    affine: npt.NDArray[np.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        x, y, z = (float(n) for n in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z


def feature_maps(
    prepared: Prepared,
    network: MapNetwork,
    layers: Sequence[FeatureInfo],
    *,
    patch_size: Sequence[int],
    overlap: float = 0.5,
    batch_size: int = 1,
    pool: Pool = "none",
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> list[FeatureMap]:
    """The `layers` of one case, whole or pooled, in their order. See `stitch_maps`."""
    stitched = stitch_maps(
        prepared.image,
        network,
        layers,
        patch_size=patch_size,
        overlap=overlap,
        batch_size=batch_size,
        device=device,
        progress=progress,
    )
    shape, made = prepared.image.shape[1:], []
    for layer in layers:
        stride = _three(shape if layer.image_level else layer.stride)
        found = stitched.pop(layer.name)
        if layer.image_level and pool == "none":
            found = found.mean((1, 2, 3), keepdim=True)
        affine = map_affine(prepared.geometry, shape, stride)
        if layer.image_level:  # its voxel is all of the volume, about the volume's middle
            affine[:3, 3] += affine[:3, :3] @ [(n - 1) / (2 * n) for n in shape]
        values = pooled(found, pool).numpy()
        made.append(FeatureMap(layer.name, values, stride, affine))
    return made


def stitch_maps(
    image: npt.NDArray[np.float32] | Tensor,
    network: MapNetwork,
    layers: Sequence[FeatureInfo],
    *,
    patch_size: Sequence[int],
    overlap: float = 0.5,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Each of `layers` as (channels, x, y, z) float32 for an image (channels, x, y, z), in main memory.

    Voxel 0 of every map lies at voxel 0 of the image, and a map has ⌈n / stride⌉ voxels (one fewer where a
    network that rounds down leaves the last one out). Windows begin at multiples of every stride, so that
    maps of neighbours fall on one grid, where they are averaged with gaussian weights. The volume stands
    amid zeros where it is smaller than a window, and before zeros where the windows reach beyond its end.
    Of what is image-level, each window's is a voxel: (channels, windows along x, along y, along z).

    Raises ShapeError where strides do not nest within the patch, DataError where a map is not finite.
    """
    volume = torch.as_tensor(image, dtype=torch.float32)
    flat = len(patch_size) == 2
    levels = {layer.name for layer in layers if layer.image_level}
    strides = {layer.name: _three(layer.stride) for layer in layers if layer.name not in levels}
    units = [math.lcm(*unit) for unit in zip(*strides.values())] or [1, 1, 1]
    axes = [
        plan_strided(n, size, overlap, unit)
        for n, size, unit in zip(volume.shape[1:], (*patch_size, 1), units)
    ]
    _check_steps([layer for layer in layers if layer.name in strides], strides, axes)
    windows = list(_grid([axis.starts for axis in axes], [axis.window for axis in axes]))
    padded = _pad(volume, axes)
    total: dict[str, Tensor] = {}
    places: dict[str, list[Window]] = {}
    said: dict[str, list[Tensor]] = {name: [] for name in levels}  # of each window, (channels,)
    for first in range(0, len(windows), batch_size):
        batch = windows[first : first + batch_size]
        inputs = torch.stack([padded[(slice(None), *w.where)] for w in batch]).to(device)
        with torch.inference_mode():
            made = network(inputs.squeeze(-1) if flat else inputs)
        for name in levels:
            said[name] += made[name].float().cpu().flatten(1)
        for name, stride in strides.items():
            parts = made[name].float().cpu()
            parts = parts.unsqueeze(-1) if flat else parts
            if name not in total:
                starts = [[n // s for n in axis.starts] for axis, s in zip(axes, stride)]
                grid = _grid(starts, parts.shape[2:])
                total[name], places[name] = torch.zeros(parts.shape[1], *grid.shape), list(grid)
            for window, part in zip(places[name][first:], parts):
                total[name][(slice(None), *window.where)].addcmul_(part, _weight(window))
        if progress:
            progress(first + len(batch), len(windows))
    inside = {name: _inside(stitched, name, strides[name], axes) for name, stitched in total.items()}
    counts = [len(axis.starts) for axis in axes]
    return inside | {n: _finite(torch.stack(each, 1).unflatten(1, counts), n) for n, each in said.items()}


def pooled(stitched: Tensor, pool: Pool) -> Tensor:
    """(channels, x, y, z) → (channels,): the mean or the maximum over the volume; or the map as it is."""
    if pool == "none":
        return stitched
    return stitched.mean((1, 2, 3)) if pool == "mean" else stitched.amax((1, 2, 3))


def map_affine(geometry: Geometry, shape: Sequence[int], stride: Sequence[int]) -> npt.NDArray[np.float64]:
    """Index (x, y, z) of a map → RAS+ mm, for an image of `shape` on the network's grid.

    Index 0 lies at the centre of the image's first voxel and the spacing is multiplied by the stride: a
    padded strided convolution (kernel 3, padding 1; kernel 7, padding 3) is centred on voxels 0, s, 2s, …
    """
    to_file = np.zeros((4, 4))
    to_file[3, 3] = 1
    for r, (axis, flipped) in enumerate(zip(geometry.turn.axes, geometry.turn.flipped)):
        size = geometry.shape[axis]
        voxels = size / shape[r]  # of the file per voxel of the network's grid, which shares its outer edges
        first, step = (voxels - 1) / 2, stride[r] * voxels
        to_file[axis, r] = -step if flipped else step
        to_file[axis, 3] = size - 1 - first if flipped else first
    return geometry.affine @ to_file


def fullest_window(mask: npt.NDArray[np.bool_], patch_size: Sequence[int]) -> tuple[slice, slice, slice]:
    """Where a window has much of `mask` (x, y, z): on each axis by itself, the start that covers most of it.

    Two numbers mean one (x, y) slice. Where the window is larger than the volume it begins at 0; of equal
    starts the middle one is taken.
    """
    found = []
    for axis, window in enumerate((*patch_size, 1)[:3]):
        along = mask.sum(axis=tuple(a for a in range(3) if a != axis))
        before = np.concatenate([[0], np.cumsum(along)])
        last = max(0, len(along) - window)
        covered = before[np.minimum(np.arange(last + 1) + window, len(along))] - before[: last + 1]
        best = np.flatnonzero(covered == covered.max())
        start = int(best[len(best) // 2])
        found.append(slice(start, start + window))
    x, y, z = found
    return x, y, z


@dataclass(frozen=True)
class StridedAxis:
    """Windows along one axis: `starts` in the padded axis, where the volume of `size` begins at `before`."""

    size: int
    window: int
    unit: int
    before: int
    starts: tuple[int, ...]

    @property
    def padded(self) -> int:
        return self.starts[-1] + self.window


def plan_strided(size: int, window: int, overlap: float, unit: int) -> StridedAxis:
    """The fewest windows that overlap by at least `overlap` and begin at multiples of `unit`, evenly spread.

    The last one ends at or beyond the axis' end. A smaller axis stands in the middle of one window, at the
    nearest multiple of `unit` before it.
    """
    if size <= window:
        return StridedAxis(size, window, unit, (window - size) // 2 // unit * unit, (0,))
    span = math.ceil((size - window) / unit)
    step = max(1, math.floor(window * (1 - overlap) / unit + 1e-9))
    last = math.ceil(span / step)
    return StridedAxis(size, window, unit, 0, tuple(round(i * span / last) * unit for i in range(last + 1)))


def _check_steps(
    layers: Sequence[FeatureInfo], strides: Mapping[str, tuple[int, ...]], axes: Sequence[StridedAxis]
) -> None:
    """Windows that step by more than their own size leave gaps in the maps of finer stride."""
    for number, axis in enumerate(axes):
        fine = [layer.name for layer in layers if strides[layer.name][number] < axis.unit]
        if len(axis.starts) > 1 and axis.unit > axis.window and fine:
            raise ShapeError(
                f"{', '.join(layer.name for layer in layers)}: on axis {'xyz'[number]} their strides meet "
                f"every {axis.unit} voxels, and the patch has {axis.window}; ask for {', '.join(fine)} alone"
            )


def _grid(starts: Sequence[Sequence[int]], window: Sequence[int]) -> Grid:
    """Windows at every combination of `starts`, with gaussian weights that sum to 1 at every voxel."""
    axes = []
    for begins, size in zip(starts, window):
        bell = gaussian(size)
        total = np.zeros(begins[-1] + size)
        for start in begins:
            total[start : start + size] += bell
        weights = np.stack([bell / total[start : start + size] for start in begins])
        axes.append(Axis(tuple(begins), weights.astype(np.float32)))
    x, y, z = axes
    shape = tuple(axis.starts[-1] + size for axis, size in zip(axes, window))
    return Grid((shape[0], shape[1], shape[2]), _three(window), (x, y, z))


def _weight(window: Window) -> Tensor:
    x, y, z = (torch.from_numpy(w) for w in window.weights)
    return x[:, None, None] * y[:, None] * z


def _pad(volume: Tensor, axes: Sequence[StridedAxis]) -> Tensor:
    sides = [(axis.before, axis.padded - axis.before - axis.size) for axis in axes]
    padding = [amount for pair in reversed(sides) for amount in pair]
    return F.pad(volume, padding) if any(padding) else volume


def _inside(stitched: Tensor, name: str, stride: tuple[int, int, int], axes: Sequence[StridedAxis]) -> Tensor:
    """The part of a stitched map that lies in the volume."""
    begins = [axis.before // s for axis, s in zip(axes, stride)]
    ends = [begin + math.ceil(axis.size / s) for begin, axis, s in zip(begins, axes, stride)]
    x, y, z = (slice(begin, end) for begin, end in zip(begins, ends))
    return _finite(stitched, name)[:, x, y, z]


def _finite(stitched: Tensor, name: str) -> Tensor:
    if not math.isfinite(float(stitched.sum())):
        raise DataError(f"{name} holds NaN or infinite values; look for such voxels in the image")
    return stitched


def _three(numbers: Sequence[Any]) -> tuple[int, int, int]:
    """A 2-D map has as many slices as the volume."""
    x, y, z = (int(n) for n in (*numbers, 1)[:3])
    return x, y, z
