"""Writing a volume on the grid of another, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import OutputError
from medfuse.core.files import atomic
from medfuse.core.geometry import Geometry
from medfuse.core.label_table import LabelEntry
from medfuse.volumes import itk, metaimage, nifti, nrrd, pictures
from medfuse.volumes.endings import METAIMAGE, NRRD, ending, is_picture, label_ending, stem
from medfuse.volumes.headers import Grid
from medfuse.volumes.nrrd_segments import segments
from medfuse.volumes.read import is_nifti, read_geometry
from medfuse.volumes.slabs import Fill, Slabs, Whole, scattered, stream


def write_volume(path: Path, array: npt.NDArray[Any], like: Path) -> None:
    """Write a label map (i, j, k) to `path` with the grid of the file `like`, whole or not at all.

    A NIfTI file keeps the header of a NIfTI `like` (affine, codes, units), so that both overlay exactly.
    Raises OutputError where it cannot be written, and for .mhd, which is two files and never whole at once.
    """
    i, j, k = array.shape
    with open_volume(path, (i, j, k), array.dtype, like) as slabs:
        slabs.write(2, 0, array)


@contextmanager
def open_volume(
    path: Path,
    shape: tuple[int, int, int],
    dtype: npt.DTypeLike,
    like: Path,
    *,
    geometry: Geometry | None = None,
    entries: Sequence[LabelEntry] = (),
) -> Iterator[Slabs]:
    """As `write_volume`, but part by part; the file is there once the block ends well.

    A NIfTI file says by its intent that its values are labels; NRRD holds `entries`, as Slicer reads them.

    `geometry`: that of `like`, where the size of a picture's pixels is known from elsewhere.

    A NIfTI file is compressed and written in the background as parts arrive in the order of its last axis.
    Parts in another order, and all parts of another format, are kept until the end.
    """
    if ending(path) in (".mhd", ".nhdr", ".jpg", ".jpeg"):
        better = f"{stem(path)}{label_ending(path)}"
        raise OutputError(f"{path}: {ending(path)} is only read; write {better}")
    if is_nifti(path):
        header, stored = _nifti_header(shape, np.dtype(dtype), like, intent="label")
        compressed = path.name.lower().endswith(".gz")
        with (
            atomic(path) as temporary,
            stream(temporary, header, shape, stored, compressed=compressed) as slabs,
        ):
            yield slabs
    elif is_picture(path):
        whole = Whole(shape, dtype)
        yield whole
        pictures.write(path, whole.voxels, geometry or read_geometry(like))
    else:
        grid = _grid(like)
        whole = Whole(shape, dtype)
        yield whole
        itk.write(path, whole.voxels, grid, segments(entries, shape) if ending(path) in NRRD else None)


@contextmanager
def open_maps(path: Path, shape: tuple[int, ...], like: Path) -> Iterator[Fill]:
    """A NIfTI file in float32 of one map (i, j, k) or several (i, j, k, map) on the grid of `like`, filled in
    any order.

    It is there once the block ends well; until then the maps are in a file beside it, in float16.
    """
    header, stored = _nifti_header(shape, np.dtype(np.float32), like)
    compressed = path.name.lower().endswith(".gz")
    with (
        atomic(path) as temporary,
        scattered(temporary, header, shape, stored, compressed=compressed) as fill,
    ):
        yield fill


def _grid(like: Path) -> Grid:
    if ending(like) in (*METAIMAGE, *NRRD):
        return (metaimage if ending(like) in METAIMAGE else nrrd).grid(like)
    return Grid.at(read_geometry(like).affine)


def _nifti_header(
    shape: tuple[int, ...], dtype: np.dtype[Any], like: Path, *, intent: nifti.Intent = "none"
) -> tuple[bytes, np.dtype[Any]]:
    if is_nifti(like):
        return nifti.header_like(shape, dtype, like, intent)
    return nifti.header_at(shape, dtype, read_geometry(like).affine, intent)
