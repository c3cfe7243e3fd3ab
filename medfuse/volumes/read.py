"""Reading a volume of any format. Any fault is one clear line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry
from medfuse.volumes import metaimage, nifti, nrrd, pictures, stored
from medfuse.volumes.endings import ENDINGS, LABELS, METAIMAGE, NIFTI, SERIES, ending, is_picture
from medfuse.volumes.folders import lost_target, not_there
from medfuse.volumes.volume import SlabReader, Volume


def read_geometry(path: Path) -> Geometry:
    """The grid of a file from its header. Raises DataError."""
    return slab_reader(path).geometry


def read_volume(path: Path) -> Volume:
    """Voxels and grid of a file, after the header's scaling. Raises DataError that names the file."""
    return slab_reader(path).whole()


def slab_reader(path: Path) -> SlabReader:
    """The header of a file, and a way to read its voxels in little memory. Raises DataError.

    Where the channels of a voxel stand together, the whole file is in memory while it is read.
    """
    if is_picture(path):
        return pictures.slab_reader(path)
    if ending(path) == SERIES:
        from medfuse.volumes.dicom import pixels

        return pixels.slab_reader(path)
    if ending(path) in (LABELS, None):
        from medfuse.volumes.dicom import labels

        path = labels.as_label_file(path)
        if ending(path) == LABELS:
            return labels.slab_reader(path)
    header = nifti if is_nifti(path) else metaimage if ending(path) in METAIMAGE else nrrd
    return stored.slab_reader(header.stored(path))


def read_labels(path: Path) -> Volume:
    """A label map as integers from 0 on. Raises DataError where a voxel is no such, or the file not 3-D.

    What lies within a rounding of a whole number, as scaled integers and resampling leave it, is that number.
    """
    if ending(path) in (".jpg", ".jpeg"):
        raise DataError(f"{path}: JPEG changes the values of a label map; store it as .png")
    volume = pictures.slab_reader(path, palette=True).whole() if is_picture(path) else read_volume(path)
    array = volume.array
    if is_picture(path) and array.ndim == 4 and not np.ptp(array, axis=3).any():
        array = array[..., 0]  # grey, saved as colours
    if array.ndim != 3:
        raise DataError(
            f"{path}: a label map has 3 axes, this file has shape {array.shape}; store one volume per file"
        )
    return Volume(_whole_numbers(path, array), volume.geometry)


@dataclass(frozen=True)
class LabelReader:
    """A label map whose header is read. read: first row k and labels (i, j, rows), all rows in their order;
    raises DataError as `read_labels` does.
    """

    geometry: Geometry
    read: Callable[[], Iterator[tuple[int, npt.NDArray[Any]]]]


def label_reader(path: Path) -> LabelReader:
    """`read_labels` slab by slab; of pictures and of files of several channels at once. Raises DataError."""
    reader = None if is_picture(path) else slab_reader(path)
    if reader is None or reader.channels > 1:
        volume = read_labels(path)
        return LabelReader(volume.geometry, lambda: iter([(0, volume.array)]))
    slabs = reader.read
    return LabelReader(
        reader.geometry, lambda: ((first, _whole_numbers(path, slab)) for _, first, slab in slabs())
    )


def _whole_numbers(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype.kind == "f":
        array = _rounded(path, array)
    if array.dtype.kind == "i" and (least := int(array.min())) < 0:
        raise DataError(
            f"{path}: holds {least} ({int((array < 0).sum())} voxels are below 0); renumber them, as the "
            "values of a label map are 0 or more"
        )
    return array


_ROUNDING = 1e-3
_EXACT = 2.0**53  # beyond it, floats leave whole numbers out


def _rounded(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    with np.errstate(invalid="ignore"):
        whole = np.rint(array)
        wrong = ~(np.abs(array - whole) <= _ROUNDING) | (np.abs(whole) > _EXACT)
    if wrong.any():
        first = np.unravel_index(int(wrong.argmax()), array.shape)
        raise DataError(
            f"{path}: {int(wrong.sum())} voxels are not whole numbers, such as {array[first]:.7g} at "
            f"{tuple(map(int, first))}; a label map has one integer per voxel: round it, or give another file"
        )
    bounds = (np.min_scalar_type(int(bound)) for bound in (whole.min(), whole.max()))
    return whole.astype(np.result_type(*bounds))


def is_nifti(path: Path) -> bool:
    """Whether the ending is NIfTI's. Raises DataError where it is no volume's."""
    found = ending(path)
    if found is None:
        lost = not_there(path) if lost_target(path) else ""
        raise DataError(lost or f"{path}: unknown ending; medfuse reads {', '.join(ENDINGS)}")
    return found in NIFTI
