"""NIfTI-1 and NIfTI-2: what their headers say, and the header of a file that overlays another."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError
from medfuse.core.offline import import_offline
from medfuse.volumes.faults import broken, check_is_file
from medfuse.volumes.inflate import Damaged, Piece, opened
from medfuse.volumes.stored import Stored
from medfuse.volumes.volume import checked_geometry, with_third_axis

_MM = {1: 1000.0, 3: 1e-3}
"""Millimetres in the units that a header may name, by its code; others stand for millimetres."""
_MOST_TOO_LONG = 1e-3  # of a quaternion that float32 or a few digits rounded
_MOST_AXES = 7
_QUIET = logging.getLogger(f"{__name__}.nibabel")
_QUIET.disabled = True  # what it mends is of no concern, or an error of ours


def stored(path: Path) -> Stored:
    """Raises DataError."""
    header = _Header.read(path)
    affine = header.affine.copy()
    affine[:3] *= header.mm
    if len(header.shape) == 2:
        affine = with_third_axis(affine)
    return Stored(
        path,
        checked_geometry(path, header.shape, affine),
        prod(header.shape[3:]),
        header.mended.get_data_dtype(),
        (Piece(path),),
        "gzip" if _compressed(path) else "raw",
        header.offset,
        *header.scaling,
    )


def _compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


@dataclass(frozen=True, eq=False)
class _Header:
    """A header as nibabel mends it, and its affine in the units of the file, of which each has `mm`."""

    mended: Any
    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]
    mm: float
    offset: int
    scaling: tuple[float, float]

    @classmethod
    def read(cls, path: Path) -> _Header:
        check_is_file(path)
        try:
            with opened((Piece(path),), "gzip" if _compressed(path) else "raw") as file:
                begin = file.read(540)
            return _parsed(path, begin)
        except (OSError, Damaged) as error:
            raise broken(path, error) from error
        except DataError:
            raise
        except Exception as error:  # nibabel's, of many types
            raise broken(path, error) from error


def _parsed(path: Path, begin: bytes) -> _Header:
    nibabel = import_offline("nibabel")

    sizes = {int.from_bytes(begin[:4], "little"), int.from_bytes(begin[:4], "big")}
    kind = nibabel.Nifti2Header if 540 in sizes else nibabel.Nifti1Header
    size = 540 if 540 in sizes else 348
    if size not in sizes or len(begin) < size:
        raise ValueError("it does not begin with a NIfTI header")
    order = "<" if size == int.from_bytes(begin[:4], "little") else ">"
    raw, mended = (kind(begin[:size], endianness=order, check=False) for _ in range(2))
    magic = bytes(raw["magic"].tobytes())[:3]
    if magic not in (b"n+1", b"n+2"):
        raise ValueError("its header is not that of a NIfTI file in one piece")
    if not 2 <= (axes := int(raw["dim"][0])) <= _MOST_AXES:
        raise DataError(
            f"{path}: its header has dim[0] = {axes}, the number of its axes; wanted 2 to {_MOST_AXES}: mend "
            "its header, or convert it again"
        )
    mended.check_fix(logger=_QUIET, error_level=40)
    if mended["sform_code"] > 0:
        _keep_spacing(raw, mended)
    elif mended["qform_code"] > 0:
        _shorten_quaternion(path, mended)
    shape = tuple(int(n) for n in mended.get_data_shape())
    affine = np.array(mended.get_best_affine(), np.float64)
    if mended["sform_code"] <= 0 and (
        zero := [i for i in range(1, min(len(shape), 3) + 1) if raw["pixdim"][i] == 0]
    ):
        raise DataError(
            f"{path}: its affine is not invertible: a spacing of 0 (pixdim[{zero[0]}]), and no sform that "
            "says another; mend its header"
        )
    offset = mended.get_data_offset()
    if not size + 4 <= offset < 2**62:  # four bytes tell of extensions; then voxels may come
        raise ValueError(f"its voxels are said to begin at byte {offset}")
    slope, inter = mended.get_slope_inter()
    scaling = 1.0 if slope is None else float(slope), 0.0 if inter is None else float(inter)
    mended.get_data_dtype()  # which is not there for every code
    return _Header(mended, shape, affine, _MM.get(int(mended["xyzt_units"]) & 7, 1.0), offset, scaling)


def _keep_spacing(raw: Any, mended: Any) -> None:
    """Where pixdim has no spacing, the sform's counts."""
    lengths = np.linalg.norm(mended.get_sform()[:3, :3], axis=0)
    for axis in range(3):
        if raw["pixdim"][1 + axis] == 0 and np.isfinite(lengths[axis]) and lengths[axis] > 0:
            mended["pixdim"][1 + axis] = lengths[axis]


def _shorten_quaternion(path: Path, header: Any) -> None:
    """A quaternion of length 1 may be a rounding longer. Raises DataError where it is much longer."""
    names = ("quatern_b", "quatern_c", "quatern_d")
    length = float(np.linalg.norm([float(header[name]) for name in names]))
    if not np.isfinite(length) or length > 1 + _MOST_TOO_LONG:
        raise DataError(
            f"{path}: the quaternion of its qform has length {length:.7g}, and 1 at most is a rotation; "
            "mend its header"
        )
    if length > 1:
        for name in names:
            header[name] = float(header[name]) / length


Intent = Literal["none", "label"]
"""What a file's values are for: viewers draw labels in colours, and do not interpolate them."""


def header_like(
    shape: tuple[int, ...], dtype: np.dtype[Any], like: Path, intent: Intent = "none"
) -> tuple[bytes, np.dtype[Any]]:
    """What comes before the voxels, and the type, with the header's byte order, in which they are stored.

    The header of the NIfTI file `like` is kept: affine, codes, units.
    """
    nibabel = import_offline("nibabel")

    source = _Header.read(like)
    header = source.mended.copy()
    if len(header.get_data_shape()) == 2 and shape[2:] == (1,):
        shape = shape[:2]
    header.set_data_dtype(dtype)
    header.set_intent(intent)
    header["cal_max"], header["cal_min"] = 0, 0
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    return _header_of(kind(np.broadcast_to(np.zeros((), dtype), shape), header.get_best_affine(), header))


def header_at(
    shape: tuple[int, ...], dtype: np.dtype[Any], affine: npt.NDArray[np.float64], intent: Intent = "none"
) -> tuple[bytes, np.dtype[Any]]:
    """As `header_like`, of a file of another format."""
    nibabel = import_offline("nibabel")

    image = nibabel.Nifti1Image(np.broadcast_to(np.zeros((), dtype), shape), affine, dtype=dtype)
    for place in (image.set_qform, image.set_sform):
        place(image.affine, code="scanner")
    image.header.set_xyzt_units("mm")
    image.header.set_intent(intent)
    return _header_of(image)


def _header_of(image: Any) -> tuple[bytes, np.dtype[Any]]:
    image.update_header()
    image.header.set_slope_inter(1, 0)
    content = BytesIO()
    image.header.write_to(content)
    return content.getvalue().ljust(image.header.get_data_offset(), b"\0"), image.get_data_dtype()
