"""Reading a volume of any format. Any fault is one clear line."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry
from medfuse.volumes import itk, nifti
from medfuse.volumes.endings import ENDINGS, NIFTI, ending
from medfuse.volumes.volume import SlabReader, Volume


def read_geometry(path: Path) -> Geometry:
    """The grid of a file from its header. Raises DataError."""
    geometry: Geometry = _format(path).geometry_of(path)
    return geometry


def read_volume(path: Path) -> Volume:
    """Voxels and grid of a file, after the header's scaling. Raises DataError that names the file."""
    volume: Volume = _format(path).read(path)
    return volume


def slab_reader(path: Path) -> SlabReader:
    """The header of a file, and a way to read its voxels in little memory. Raises DataError.

    Only a NIfTI file is read in parts; of another format the whole volume is in memory while it is read.
    """
    reader: SlabReader = _format(path).slab_reader(path)
    return reader


def read_labels(path: Path) -> Volume:
    """A label map as integers. Raises DataError where a voxel is not a whole number, or the file not 3-D."""
    volume = read_volume(path)
    array = volume.array
    if array.ndim != 3:
        raise DataError(
            f"{path}: a label map has 3 axes, this file has shape {array.shape}; store one volume per file"
        )
    if array.dtype.kind in "ui":
        return volume
    if not np.isfinite(array).all() or (array != np.rint(array)).any():
        raise DataError(
            f"{path}: holds values that are not whole numbers; a label map has one integer per voxel"
        )
    whole = np.result_type(*(np.min_scalar_type(int(bound)) for bound in (array.min(), array.max())))
    return Volume(array.astype(whole), volume.geometry)


def is_nifti(path: Path) -> bool:
    """Whether the ending is NIfTI's. Raises DataError where it is no volume's."""
    found = ending(path)
    if found is None:
        raise DataError(f"{path}: unknown ending; medfuse reads {', '.join(ENDINGS)}")
    return found in NIFTI


def _format(path: Path) -> ModuleType:
    return nifti if is_nifti(path) else itk
