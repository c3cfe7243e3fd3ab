"""Volumes on disk: NIfTI by nibabel; NRRD, MHA and MHD by SimpleITK. Any fault is one clear line."""

from __future__ import annotations

import gzip
import itertools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError, OutputError
from medfuse.core.files import atomic
from medfuse.core.geometry import Geometry
from medfuse.core.slabs import Fill, Slabs, Whole, scattered, stream

NIFTI = (".nii.gz", ".nii")
ITK = (".nrrd", ".mha", ".mhd")
ENDINGS = (*NIFTI, *ITK)

_Grid = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's patient axes ↔ NIfTI's


@dataclass(frozen=True, eq=False)
class Volume:
    """An image file: `array` is (i, j, k) or, for a 4-D file, (i, j, k, channel), in the file's own order."""

    array: npt.NDArray[Any]
    geometry: Geometry


Slab = tuple[int, int, npt.NDArray[Any]]
"""Channel, first row k, voxels (i, j, rows)."""


@dataclass(frozen=True, eq=False)
class SlabReader:
    """An image file whose header is read, and whose voxels come slab by slab, in the order of the file.

    `slab_bytes`: about the most that reading takes, whatever the slabs are used for.
    """

    path: Path
    geometry: Geometry
    channels: int
    slab_bytes: int
    read: Callable[[], Iterator[Slab]]
    """All rows k of channel 0, then those of channel 1, …; raises DataError as `read_volume` does."""


SLAB_VOXELS = 2**21
"""About how many voxels a slab has: enough that a slab's fixed cost is nothing, 8 MiB in float32."""


def ending(path: Path) -> str | None:
    """`.nii.gz` of `liver_01.nii.gz`; None where the ending is not one that can be read."""
    return next((e for e in ENDINGS if path.name.lower().endswith(e)), None)


def stem(path: Path) -> str:
    """`liver_01` of `liver_01.nii.gz`."""
    found = ending(path)
    return path.name[: -len(found)] if found else path.stem


def read_geometry(path: Path) -> Geometry:
    """The grid of a file from its header. Raises DataError."""
    return _nifti(path)[1] if _is_nifti(path) else _itk_geometry(path, _itk_header(path))


def read_volume(path: Path) -> Volume:
    """Voxels and grid of a file, after the header's scaling. Raises DataError that names the file."""
    array, geometry = _read_nifti(path) if _is_nifti(path) else _read_itk(path)
    channels = tuple(n for n in array.shape[3:] if n > 1)
    return Volume(_native(path, array.reshape(array.shape[:3] + channels)), geometry)


def slab_reader(path: Path) -> SlabReader:
    """The header of a file, and a way to read its voxels in little memory. Raises DataError.

    Only a NIfTI file is read in parts; of another format the whole volume is in memory while it is read.
    """
    if not _is_nifti(path):
        header = _itk_header(path)
        geometry = _itk_geometry(path, header)
        size = tuple(header.GetSize()[3:])
        channels = math.prod(size) * header.GetNumberOfComponents()
        return SlabReader(
            path, geometry, channels, 16 * math.prod(geometry.shape) * channels, lambda: _cut(path)
        )
    image, geometry = _nifti(path)
    channels = math.prod(image.shape[3:])
    plane = math.prod(geometry.shape[:2])
    return SlabReader(
        path, geometry, channels, 32 * max(plane, SLAB_VOXELS), lambda: _nifti_slabs(path, image, channels)
    )


def rows_per_slab(shape: Sequence[int]) -> int:
    """How many rows k of a volume (i, j, k) make a slab."""
    return max(1, SLAB_VOXELS // (shape[0] * shape[1]))


def slabs_of(volume: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """The slabs of a volume (i, j, k) in memory, with their first rows."""
    step = rows_per_slab(volume.shape)
    for first in range(0, volume.shape[2], step):
        yield first, volume[:, :, first : first + step]


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


def write_volume(path: Path, array: npt.NDArray[Any], like: Path) -> None:
    """Write (i, j, k) voxels to `path` with the grid of the file `like`, whole or not at all.

    A NIfTI file keeps the header of a NIfTI `like` (affine, codes, units), so that both overlay exactly.
    Raises OutputError where it cannot be written, and for .mhd, which is two files and never whole at once.
    """
    i, j, k = array.shape
    with open_volume(path, (i, j, k), array.dtype, like) as slabs:
        slabs.write(2, 0, array)


@contextmanager
def open_volume(path: Path, shape: tuple[int, int, int], dtype: npt.DTypeLike, like: Path) -> Iterator[Slabs]:
    """As `write_volume`, but part by part; the file is there once the block ends well.

    A NIfTI file is compressed and written in the background as parts arrive in the order of its last axis.
    Parts in another order, and all parts of another format, are kept until the end.
    """
    if ending(path) == ".mhd":
        raise OutputError(f"{path}: .mhd is only read, as it is two files; write {stem(path)}.mha")
    if _is_nifti(path):
        header, stored = _nifti_header(shape, np.dtype(dtype), like)
        compressed = path.name.lower().endswith(".gz")
        with (
            atomic(path) as temporary,
            stream(temporary, header, shape, stored, compressed=compressed) as slabs,
        ):
            yield slabs
    else:
        grid = _grid_of(like)
        whole = Whole(shape, dtype)
        yield whole
        _write_itk(path, whole.voxels, grid)


@contextmanager
def open_maps(path: Path, shape: tuple[int, int, int, int], like: Path) -> Iterator[Fill]:
    """A NIfTI file in float32 of several maps (i, j, k, map) on the grid of `like`, filled in any order.

    It is there once the block ends well; until then the maps are in a file beside it, in float16.
    """
    header, stored = _nifti_header(shape, np.dtype(np.float32), like)
    compressed = path.name.lower().endswith(".gz")
    with (
        atomic(path) as temporary,
        scattered(temporary, header, shape, stored, compressed=compressed) as fill,
    ):
        yield fill


def smallest_integer(largest: int) -> npt.DTypeLike:
    """The smallest unsigned type that holds 0 … `largest`."""
    return np.min_scalar_type(largest)


def _is_nifti(path: Path) -> bool:
    found = ending(path)
    if found is None:
        raise DataError(f"{path}: unknown ending; medfuse reads {', '.join(ENDINGS)}")
    return found in NIFTI


def _broken(path: Path, error: BaseException) -> DataError:
    """What `error` means for someone who wants to read `path`."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: no such file; check the path")
    if isinstance(error, IsADirectoryError):
        return DataError(f"{path}: is a folder; name a file in it")
    if isinstance(error, PermissionError):
        return DataError(f"{path}: cannot be read; change its permissions")
    if isinstance(error, gzip.BadGzipFile) and "Not a gzipped" in str(error):
        return DataError(f"{path}: is not a gzip file, whatever its ending says; convert or replace it")
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile) or "Expected" in str(error):
        return DataError(f"{path}: is truncated or damaged; copy it again from its source")
    return DataError(f"{path}: is not a readable image ({_last_line(error)}); convert or replace it")


def _last_line(error: BaseException) -> str:
    """The last line of an error's text, which in ITK's is the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


def _nifti(path: Path) -> tuple[Any, Geometry]:
    """The image, its voxels not yet read, and its grid."""
    import nibabel
    from nibabel.openers import ImageOpener

    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:  # Python's own, as isal calls a short text a truncated file
            file.read(4)  # says "no such file", "a folder", "not a gzip file" more clearly than nibabel
        image = nibabel.load(path, mmap=False)  # a mapped file could change under our feet
        with ImageOpener(path) as file:
            raw = type(image.header).from_fileobj(
                file, check=False
            )  # nibabel's check puts 1 for a spacing of 0
        shape, affine = tuple(int(n) for n in image.shape), np.array(image.affine, dtype=np.float64)
    except Exception as error:
        raise _broken(path, error) from error
    if not (raw["pixdim"][1:4] != 0).all():
        affine[:] = 0
    return image, checked_geometry(path, shape, affine)


def _read_nifti(path: Path) -> tuple[npt.NDArray[Any], Geometry]:
    from isal import isal_zlib
    from nibabel.arrayproxy import ArrayProxy

    damaged: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub names an instance
    image, geometry = _nifti(path)
    stored = image.dataobj
    layout = (stored.shape, stored.dtype, stored.offset, stored.slope, stored.inter)
    try:
        with _opener(path)(path, "rb") as file:
            return np.asanyarray(ArrayProxy(file, layout, mmap=False)), geometry
    except damaged as error:
        raise _broken(path, EOFError()) from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _broken(path, error) from error


def _opener(path: Path) -> Callable[[Path, str], Any]:
    if not path.name.lower().endswith(".gz"):
        return open
    from isal import igzip  # several times faster than Python's own

    return igzip.open


def _nifti_slabs(path: Path, image: Any, channels: int) -> Iterator[Slab]:
    """The file read once from its beginning to its end, which is all that gzip can do."""
    from isal import isal_zlib
    from nibabel.volumeutils import apply_read_scaling

    damaged: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub names an instance
    proxy, (i, j, k) = image.dataobj, image.shape[:3]
    stored = image.header.get_data_dtype()
    step = rows_per_slab(image.shape)
    try:
        with _opener(path)(path, "rb") as file:
            file.seek(proxy.offset)
            for channel, first in itertools.product(range(channels), range(0, k, step)):
                rows = min(step, k - first)
                raw = np.empty(i * j * rows, stored)
                if file.readinto(raw.data.cast("B")) < raw.nbytes:
                    raise EOFError
                slab = raw.reshape((i, j, rows), order="F")
                scaled = apply_read_scaling(slab, np.float64(proxy.slope), np.float64(proxy.inter))
                yield channel, first, _native(path, scaled)
    except damaged as error:
        raise _broken(path, EOFError()) from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _broken(path, error) from error


def _cut(path: Path) -> Iterator[Slab]:
    array = read_volume(path).array
    array = array[..., None] if array.ndim == 3 else array
    for channel in range(array.shape[3]):
        for first, slab in slabs_of(array[..., channel]):
            yield channel, first, slab


def _native(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Voxels in this machine's byte order. Raises DataError where they are not plain numbers."""
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        kind = "colours" if array.dtype.names else f"{array.dtype} numbers"
        raise DataError(f"{path}: its voxels are {kind}; convert them to integers, float32 or float64")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def checked_geometry(path: Path, shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> Geometry:
    """The grid of a file with such a header. Raises DataError."""
    if len(shape) == 2:
        raise DataError(
            f"{path}: has 2 axes {shape}; a volume has 3 (one slice is written as a third axis of 1)"
        )
    if len(shape) < 3 or sum(n != 1 for n in shape[3:]) > 1 or 0 in shape:
        raise DataError(
            f"{path}: has shape {shape}; a volume has 3 axes, or 4 with channels last, none of them empty"
        )
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not np.isfinite(affine).all() or not lengths.all() or abs(np.linalg.det(axes / lengths)) < 1e-6:
        raise DataError(
            f"{path}: its affine is not invertible (a spacing of 0 or not a number); mend its header"
        )
    return Geometry((shape[0], shape[1], shape[2]), affine)


def _nifti_header(shape: tuple[int, ...], dtype: np.dtype[Any], like: Path) -> tuple[bytes, np.dtype[Any]]:
    """What comes before the voxels, and the type, with the header's byte order, in which they are stored."""
    import nibabel

    nothing = np.broadcast_to(np.zeros((), dtype), shape)
    if not _is_nifti(like):
        image = nibabel.Nifti1Image(nothing, read_geometry(like).affine, dtype=dtype)
        for place in (image.set_qform, image.set_sform):
            place(image.affine, code="scanner")
        image.header.set_xyzt_units("mm")
    else:
        source, _ = _nifti(like)
        header = source.header.copy()
        header.set_data_dtype(dtype)
        header.set_intent("none")
        header["cal_max"], header["cal_min"] = 0, 0
        header.extensions.clear()  # they speak of the source's voxels
        image = type(source)(nothing, source.affine, header)
    image.update_header()
    image.header.set_slope_inter(1, 0)
    content = BytesIO()
    image.header.write_to(content)
    return content.getvalue().ljust(image.header.get_data_offset(), b"\0"), image.get_data_dtype()


def _write_itk(path: Path, array: npt.NDArray[Any], grid: _Grid) -> None:
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
                f"{path}: cannot be written ({_last_line(error)}); see whether the disk is full"
            ) from error


def _grid_of(like: Path) -> _Grid:
    if not _is_nifti(like):  # as the file says it, to the last bit
        return _itk_grid(_itk_header(like))
    affine = _LPS @ read_geometry(like).affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return spacing, affine[:3, 3], affine[:3, :3] / spacing


def _itk_header(path: Path) -> Any:
    """A reader that knows the header, its voxels not yet read."""
    import SimpleITK as sitk

    if not path.is_file():
        raise _broken(path, IsADirectoryError() if path.is_dir() else FileNotFoundError())
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _broken(path, error) from error
    return reader


def _itk_grid(image: Any) -> _Grid:
    """Spacing, origin and direction of the first three axes, towards the patient's left, back and head."""
    n = len(image.GetSize())
    direction = np.array(image.GetDirection()).reshape(n, n)[:3, :3]
    return np.array(image.GetSpacing()[:3]), np.array(image.GetOrigin()[:3]), direction


def _itk_geometry(path: Path, image: Any) -> Geometry:
    size = tuple(int(n) for n in image.GetSize())
    affine = np.eye(4)
    if len(size) > 2:
        spacing, origin, direction = _itk_grid(image)
        affine[:3, :3], affine[:3, 3] = direction * spacing, origin
    return checked_geometry(path, size, _LPS @ affine)


def _read_itk(path: Path) -> tuple[npt.NDArray[Any], Geometry]:
    import SimpleITK as sitk

    reader = _itk_header(path)
    geometry = _itk_geometry(path, reader)
    try:
        image = reader.Execute()
    except RuntimeError as error:  # the header could be read, the voxels cannot
        raise _broken(path, EOFError()) from error
    array = sitk.GetArrayFromImage(image)  # (k, j, i), with vector components last
    if image.GetNumberOfComponentsPerPixel() > 1:
        return np.moveaxis(array, -1, 0).T, geometry
    return array.T, geometry
