"""Probabilities on the input's grid, box by box, and the file that they are written into."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

import medfuse
from medfuse.core.geometry import Geometry
from medfuse.infer.feature_files import new_folder, zarr_module
from medfuse.volumes.write import open_maps

if TYPE_CHECKING:
    from torch import Tensor

    from medfuse.infer.seams import Region
    from medfuse.infer.trilinear import Axis

ProbabilityFormat = Literal["zarr", "nifti"]
PROBABILITY_FORMATS: tuple[ProbabilityFormat, ...] = ("zarr", "nifti")

_UNCERTAINTY = "_uncertainty"
_AT_ONCE = 1 << 22  # numbers in a box
BOX_BYTES = 256 * 2**20
"""What making a box and writing it takes of memory."""
_CHUNK = 32  # voxels along each axis of a chunk


@dataclass(frozen=True, eq=False)
class Box:
    """Probabilities (classes, i, j, k) in float16 and their place in the file's own axes."""

    where: tuple[slice, slice, slice]
    values: npt.NDArray[np.float16]


def boxes(region: Region, axes: tuple[Axis, ...], kind: str, geometry: Geometry) -> Iterator[Box]:
    """Softmax over classes, or for regions the sigmoid of each, of the interpolated logits."""

    def fits(piece: Region) -> bool:
        return len(piece.logits) * math.prod(len(fine) for fine in _fine(piece, axes)) <= _AT_ONCE

    for piece in region.pieces(axes, fits):
        logits = _interpolated(piece, axes)
        values = logits.softmax(0) if kind == "softmax" else logits.sigmoid()
        turned = geometry.turn.undo(values.half().cpu().numpy())
        yield Box(_in_file(_fine(piece, axes), geometry), turned)


def _fine(piece: Region, axes: tuple[Axis, ...]) -> list[range]:
    """The fine voxels of a piece, per axis."""
    return [range(int(axis.first[c.start]), int(axis.first[c.stop])) for axis, c in zip(axes, piece.cells)]


def _interpolated(piece: Region, axes: tuple[Axis, ...]) -> Tensor:
    import torch

    values = piece.logits
    for number, fine in reversed(list(enumerate(_fine(piece, axes)))):
        axis, cells = axes[number], slice(piece.cells[number].start, piece.cells[number].stop)
        counts = np.diff(axis.first)[cells]
        sides = (np.repeat(side[cells] - piece.origin[number], counts) for side in (axis.low, axis.high))
        low, high = (torch.from_numpy(side).to(values.device) for side in sides)
        weights = torch.from_numpy(axis.weights[:, fine.start : fine.stop]).to(values.device)
        before, after = weights.view(2, *(-1 if a == number else 1 for a in range(3)))
        values = values.index_select(number + 1, low) * before + values.index_select(number + 1, high) * after
    return values


def _in_file(fine: Sequence[range], geometry: Geometry) -> tuple[slice, slice, slice]:
    turn, where = geometry.turn, [slice(0)] * 3
    for run, axis, flipped in zip(fine, turn.axes, turn.flipped):
        n = geometry.shape[axis]
        where[axis] = slice(n - run.stop, n - run.start) if flipped else slice(run.start, run.stop)
    return where[0], where[1], where[2]


def entropies(values: npt.NDArray[np.float16], kind: str) -> npt.NDArray[np.float16]:
    """Of probabilities (classes, *any), per voxel: 0 (sure) to 1 (all classes alike).

    -∑ p log p over the logarithm of the number of classes; of regions that of the most doubtful one.
    """
    from scipy.special import xlogy

    found = np.zeros(values.shape[1:], np.float32)
    for one in values.astype(np.float32):
        own = -xlogy(one, one)
        if kind == "softmax":
            found += own
        else:
            np.maximum(found, own - xlogy(1 - one, 1 - one), out=found)
    most = math.log(max(len(values), 2) if kind == "softmax" else 2)
    return np.clip(found / most, 0, 1).astype(np.float16)


def check_format(kind: ProbabilityFormat | None) -> None:
    """Raises MedfuseError where what writes this format is not installed."""
    if kind == "zarr":
        zarr_module("--probabilities zarr", ", or use --probabilities nifti")


def probability_file(case: str, kind: ProbabilityFormat) -> str:
    """The name of a case's file, or folder."""
    return f"{case}_probabilities{'.zarr' if kind == 'zarr' else '.nii.gz'}"


def uncertainty_file(case: str) -> str:
    """The name of a case's file."""
    return f"{case}{_UNCERTAINTY}.nii.gz"


def files_beside(case: str) -> list[str]:
    """What may lie beside the label maps of a case."""
    return [*(probability_file(case, kind) for kind in PROBABILITY_FORMATS), uncertainty_file(case)]


@contextmanager
def open_uncertainty(
    path: Path, geometry: Geometry, kind: str, like: Path
) -> Iterator[Callable[[Box], None]]:
    """What takes probabilities box by box, and writes their entropy: a NIfTI file (i, j, k) in float32 on the
    grid of the image `like`, which is whole or absent. Raises OutputError."""
    with open_maps(path, geometry.shape, like) as fill:
        yield lambda box: fill(box.where, entropies(box.values, kind))


def open_probabilities(
    path: Path, geometry: Geometry, names: Sequence[str], like: Path
) -> AbstractContextManager[Callable[[Box], None]]:
    """What takes the probabilities of the classes `names` box by box; the file is whole or absent.

    A .zarr folder has an array `probabilities` (classes, i, j, k) in float16, whose attributes name the
    classes and give the affine. A .nii.gz file has the axes (i, j, k, class) in float32 and the grid of the
    image `like`. Raises MedfuseError where zarr is not installed, and OutputError where the file cannot be
    written or the folder is not medfuse's own.
    """
    if path.suffix == ".zarr":
        return _zarr(path, geometry, names)
    return _nifti(path, (*geometry.shape, len(names)), like)


@contextmanager
def _nifti(path: Path, shape: tuple[int, int, int, int], like: Path) -> Iterator[Callable[[Box], None]]:
    with open_maps(path, shape, like) as fill:

        def write(box: Box) -> None:
            fill(box.where, np.moveaxis(box.values, 0, -1))

        yield write


@contextmanager
def _zarr(path: Path, geometry: Geometry, names: Sequence[str]) -> Iterator[Callable[[Box], None]]:
    zarr = zarr_module("--probabilities zarr", ", or use --probabilities nifti")
    with new_folder(path) as temporary:
        group = zarr.create_group(str(temporary), attributes={"medfuse": medfuse.__version__})
        array: Any = group.create_array(
            "probabilities",
            shape=(len(names), *geometry.shape),
            chunks=(len(names), *(min(n, _CHUNK) for n in geometry.shape)),
            dtype="float16",
            attributes={"classes": list(names), "affine": geometry.affine.tolist()},
        )

        def write(box: Box) -> None:
            array[(slice(None), *box.where)] = box.values

        yield write
