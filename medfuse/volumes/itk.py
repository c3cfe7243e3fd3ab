"""NRRD, MHA and MHD by SimpleITK."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import OutputError
from medfuse.core.files import atomic
from medfuse.core.geometry import Geometry
from medfuse.volumes.faults import broken, last_line
from medfuse.volumes.volume import Slab, SlabReader, Volume, checked_geometry, native, slabs_of

Grid = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Spacing, origin and direction of the first three axes, towards the patient's left, back and head."""

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's patient axes ↔ NIfTI's


def geometry_of(path: Path) -> Geometry:
    return _geometry(path, _header(path))


def read(path: Path) -> Volume:
    import SimpleITK as sitk

    reader = _header(path)
    geometry = _geometry(path, reader)
    try:
        image = reader.Execute()
    except RuntimeError as error:  # the header could be read, the voxels cannot
        raise broken(path, EOFError()) from error
    array = sitk.GetArrayFromImage(image)  # (k, j, i), with vector components last
    array = np.moveaxis(array, -1, 0).T if image.GetNumberOfComponentsPerPixel() > 1 else array.T
    channels = tuple(n for n in array.shape[3:] if n > 1)
    return Volume(native(path, array.reshape(array.shape[:3] + channels)), geometry)


def slab_reader(path: Path) -> SlabReader:
    """The whole volume is in memory while it is read."""
    header = _header(path)
    geometry = _geometry(path, header)
    channels = math.prod(tuple(header.GetSize()[3:])) * header.GetNumberOfComponents()
    return SlabReader(path, geometry, channels, 16 * math.prod(geometry.shape) * channels, lambda: _cut(path))


def _cut(path: Path) -> Iterator[Slab]:
    array = read(path).array
    array = array[..., None] if array.ndim == 3 else array
    for channel in range(array.shape[3]):
        for first, slab in slabs_of(array[..., channel]):
            yield channel, first, slab


def grid_of(path: Path) -> Grid:
    """The grid as the file says it, to the last bit."""
    return _grid(_header(path))


def grid_at(affine: npt.NDArray[np.float64]) -> Grid:
    """The grid of an affine towards RAS+."""
    turned = _LPS @ affine
    spacing = np.linalg.norm(turned[:3, :3], axis=0)
    return spacing, turned[:3, 3], turned[:3, :3] / spacing


def write(path: Path, array: npt.NDArray[Any], grid: Grid) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    spacing, origin, direction = grid
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    with atomic(path) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
        except RuntimeError as error:  # ITK's, whatever the cause
            raise OutputError(
                f"{path}: cannot be written ({last_line(error)}); see whether the disk is full"
            ) from error


def _header(path: Path) -> Any:
    """A reader that knows the header, its voxels not yet read."""
    import SimpleITK as sitk

    if not path.is_file():
        raise broken(path, IsADirectoryError() if path.is_dir() else FileNotFoundError())
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise broken(path, error) from error
    return reader


def _grid(image: Any) -> Grid:
    n = len(image.GetSize())
    direction = np.array(image.GetDirection()).reshape(n, n)[:3, :3]
    return np.array(image.GetSpacing()[:3]), np.array(image.GetOrigin()[:3]), direction


def _geometry(path: Path, image: Any) -> Geometry:
    size = tuple(int(n) for n in image.GetSize())
    affine = np.eye(4)
    if len(size) > 2:
        spacing, origin, direction = _grid(image)
        affine[:3, :3], affine[:3, 3] = direction * spacing, origin
    return checked_geometry(path, size, _LPS @ affine)
