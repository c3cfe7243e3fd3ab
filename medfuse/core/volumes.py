"""Volumes on disk: NIfTI by nibabel; NRRD, MHA and MHD by SimpleITK. Any fault is one clear line."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError
from medfuse.core.files import atomic
from medfuse.core.geometry import Geometry

NIFTI = (".nii.gz", ".nii")
ITK = (".nrrd", ".mha", ".mhd")
ENDINGS = (*NIFTI, *ITK)

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's patient axes ↔ NIfTI's


@dataclass(frozen=True, eq=False)
class Volume:
    """An image file: `array` is (i, j, k) or, for a 4-D file, (i, j, k, channel), in the file's own order."""

    array: npt.NDArray[Any]
    geometry: Geometry


def ending(path: Path) -> str | None:
    """`.nii.gz` of `liver_01.nii.gz`; None where the ending is not one that can be read."""
    return next((e for e in ENDINGS if path.name.lower().endswith(e)), None)


def stem(path: Path) -> str:
    """`liver_01` of `liver_01.nii.gz`."""
    found = ending(path)
    return path.name[: -len(found)] if found else path.stem


def read_geometry(path: Path) -> Geometry:
    """The grid of a file from its header. Raises DataError."""
    return _nifti(path)[1] if _is_nifti(path) else _itk_geometry(path)


def read_volume(path: Path) -> Volume:
    """Voxels and grid of a file, after the header's scaling. Raises DataError that names the file."""
    if not _is_nifti(path):
        return _read_itk(path)
    image, geometry = _nifti(path)
    try:
        return Volume(np.asanyarray(image.dataobj), geometry)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(_broken(path, error)) from error


def read_labels(path: Path) -> Volume:
    """A label map as integers. Raises DataError where a voxel is not a whole number, or the file not 3-D."""
    volume = read_volume(path)
    array = volume.array
    if array.ndim != 3:
        raise DataError(f"{path}: a label map has 3 axes, this file has shape {array.shape}; store one volume per file")
    if array.dtype.kind in "ui":
        return volume
    if not np.isfinite(array).all() or (array != np.rint(array)).any():
        raise DataError(f"{path}: holds values that are not whole numbers; a label map has one integer per voxel")
    return Volume(np.rint(array).astype(np.int32), volume.geometry)


def write_volume(path: Path, array: npt.NDArray[Any], like: Path) -> None:
    """Write (i, j, k) voxels to `path` with the grid of the file `like`, whole or not at all.

    A NIfTI file keeps the header of a NIfTI `like` (affine, codes, units), so that both overlay exactly.
    """
    with atomic(path) as temporary:
        if _is_nifti(path):
            _write_nifti(temporary, array, like)
        else:
            _write_itk(temporary, array, like)


def smallest_integer(largest: int) -> npt.DTypeLike:
    """The smallest unsigned type that holds 0 … `largest`."""
    return np.min_scalar_type(largest)


def _is_nifti(path: Path) -> bool:
    found = ending(path)
    if found is None:
        raise DataError(f"{path}: unknown ending; medfuse reads {', '.join(ENDINGS)}")
    return found in NIFTI


def _broken(path: Path, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such file; check the path"
    if isinstance(error, PermissionError):
        return f"{path}: cannot be read; change its permissions"
    if isinstance(error, EOFError | zlib.error) or "truncat" in str(error).lower() or "Expected" in str(error):
        return f"{path}: is truncated or damaged; copy it again from its source"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{path}: is not a readable image ({reason[:160]}); convert or replace it"


def _nifti(path: Path) -> tuple[Any, Geometry]:
    import nibabel

    try:
        if path.name.lower().endswith(".gz"):
            with gzip.open(path) as file:
                file.read(4)
        image = nibabel.load(path)
        shape, affine = tuple(int(n) for n in image.shape), np.asarray(image.affine, dtype=np.float64)
    except gzip.BadGzipFile as error:
        raise DataError(f"{path}: is not a gzip file, whatever its ending says; convert or replace it") from error
    except Exception as error:
        raise DataError(_broken(path, error)) from error
    if len(shape) > 4 and set(shape[3:-1]) == {1}:  # (i, j, k, 1, c), NIfTI's vector layout
        image = image.slicer[:, :, :, 0] if len(shape) == 5 else image
        shape = tuple(int(n) for n in image.shape)
    if len(shape) == 4 and shape[3] == 1:
        image = image.slicer[..., 0]
        shape = shape[:3]
    if len(shape) == 2:
        raise DataError(f"{path}: has 2 axes {shape}; a volume has 3 (one slice is written as a third axis of 1)")
    return image, _geometry(path, shape, affine)


def _geometry(path: Path, shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> Geometry:
    if len(shape) not in (3, 4) or 0 in shape:
        raise DataError(f"{path}: has shape {shape}; a volume has 3 axes, or 4 with channels last, none of them empty")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise DataError(f"{path}: its affine is not invertible (a spacing of 0 or not a number); mend its header")
    return Geometry((shape[0], shape[1], shape[2]), affine)


def _write_nifti(path: Path, array: npt.NDArray[Any], like: Path) -> None:
    import nibabel

    if _is_nifti(like):
        source = nibabel.load(like)
        header = source.header.copy()
        header.set_data_dtype(array.dtype)
        header.set_slope_inter(1, 0)
        header["cal_max"], header["cal_min"] = 0, 0
        kind = type(source) if isinstance(source, nibabel.Nifti1Image) else nibabel.Nifti1Image
        image = kind(array, source.affine, header)
    else:
        image = nibabel.Nifti1Image(array, read_geometry(like).affine)
        image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def _itk_reader(path: Path) -> Any:
    import SimpleITK as sitk

    if not path.exists():
        raise DataError(f"{path}: no such file; check the path")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    return reader


def _itk_failed(path: Path, error: RuntimeError) -> DataError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1].rpartition(": ")[2] if lines else "unknown reason"
    return DataError(f"{path}: is not a readable image, or is truncated ({reason[:160]}); convert or replace it")


def _itk_geometry(path: Path) -> Geometry:
    reader = _itk_reader(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _itk_failed(path, error) from error
    return _from_itk(path, reader)


def _from_itk(path: Path, image: Any) -> Geometry:
    size = tuple(int(n) for n in image.GetSize())
    if len(size) not in (3, 4):
        raise DataError(f"{path}: has {len(size)} axes; a volume has 3")
    n = len(size)
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(n, n)[:3, :3]
    affine[:3, :3] = direction * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    return _geometry(path, size, _LPS @ affine)


def _read_itk(path: Path) -> Volume:
    import SimpleITK as sitk

    reader = _itk_reader(path)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _itk_failed(path, error) from error
    array = sitk.GetArrayFromImage(image)  # (k, j, i), with vector components last
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = array.transpose(2, 1, 0, 3)
    else:
        array = array.transpose(*reversed(range(array.ndim)))
    return Volume(array, _from_itk(path, image))


def _write_itk(path: Path, array: npt.NDArray[Any], like: Path) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    affine = _LPS @ read_geometry(like).affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=True)
