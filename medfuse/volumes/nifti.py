"""NIfTI: read whole or slab by slab, written in parts with the header of its source."""

from __future__ import annotations

import gzip
import itertools
import math
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.geometry import Geometry
from medfuse.volumes import volume
from medfuse.volumes.faults import broken
from medfuse.volumes.volume import Slab, SlabReader, Volume, checked_geometry, native, rows_per_slab


def geometry_of(path: Path) -> Geometry:
    return _open(path)[1]


def read(path: Path) -> Volume:
    from isal import isal_zlib
    from nibabel.arrayproxy import ArrayProxy

    damaged: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub names an instance
    image, geometry = _open(path)
    stored = image.dataobj
    layout = (stored.shape, stored.dtype, stored.offset, stored.slope, stored.inter)
    try:
        with _opener(path)(path, "rb") as file:
            array = np.asanyarray(ArrayProxy(file, layout, mmap=False))
    except damaged as error:
        raise broken(path, EOFError()) from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise broken(path, error) from error
    channels = tuple(n for n in array.shape[3:] if n > 1)
    return Volume(native(path, array.reshape(array.shape[:3] + channels)), geometry)


def slab_reader(path: Path) -> SlabReader:
    image, geometry = _open(path)
    channels = math.prod(image.shape[3:])
    plane = math.prod(geometry.shape[:2])
    return SlabReader(
        path, geometry, channels, 32 * max(plane, volume.SLAB_VOXELS), lambda: _slabs(path, image, channels)
    )


def _slabs(path: Path, image: Any, channels: int) -> Iterator[Slab]:
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
                yield channel, first, native(path, scaled)
    except damaged as error:
        raise broken(path, EOFError()) from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise broken(path, error) from error


def _opener(path: Path) -> Callable[[Path, str], Any]:
    if not path.name.lower().endswith(".gz"):
        return open
    from isal import igzip  # several times faster than Python's own

    return igzip.open


def _open(path: Path) -> tuple[Any, Geometry]:
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
        raise broken(path, error) from error
    if not (raw["pixdim"][1:4] != 0).all():
        affine[:] = 0
    return image, checked_geometry(path, shape, affine)


def header_like(shape: tuple[int, ...], dtype: np.dtype[Any], like: Path) -> tuple[bytes, np.dtype[Any]]:
    """What comes before the voxels, and the type, with the header's byte order, in which they are stored.

    The header of the NIfTI file `like` is kept: affine, codes, units.
    """
    source, _ = _open(like)
    header = source.header.copy()
    header.set_data_dtype(dtype)
    header.set_intent("none")
    header["cal_max"], header["cal_min"] = 0, 0
    header.extensions.clear()  # they speak of the source's voxels
    return _header_of(type(source)(np.broadcast_to(np.zeros((), dtype), shape), source.affine, header))


def header_at(
    shape: tuple[int, ...], dtype: np.dtype[Any], affine: npt.NDArray[np.float64]
) -> tuple[bytes, np.dtype[Any]]:
    """As `header_like`, of a file of another format."""
    import nibabel

    image = nibabel.Nifti1Image(np.broadcast_to(np.zeros((), dtype), shape), affine, dtype=dtype)
    for place in (image.set_qform, image.set_sform):
        place(image.affine, code="scanner")
    image.header.set_xyzt_units("mm")
    return _header_of(image)


def _header_of(image: Any) -> tuple[bytes, np.dtype[Any]]:
    image.update_header()
    image.header.set_slope_inter(1, 0)
    content = BytesIO()
    image.header.write_to(content)
    return content.getvalue().ljust(image.header.get_data_offset(), b"\0"), image.get_data_dtype()
