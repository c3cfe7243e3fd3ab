"""A case's image as one array, whatever files it is spread over."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.api import Case
from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry
from medfuse.volumes.read import read_labels, slab_reader
from medfuse.volumes.volume import SlabReader, values_of


@dataclass(frozen=True, eq=False)
class ImageSlabs:
    """The image of a case, its headers read and found to fit: `geometry` in the file's own axes.

    `slab_bytes`: about the most that reading takes.
    """

    case: Case
    geometry: Geometry
    files: tuple[SlabReader, ...]

    @property
    def slab_bytes(self) -> int:
        return max(file.slab_bytes for file in self.files)

    @property
    def limits(self) -> tuple[tuple[float, float], ...]:
        """Between which numbers the values of each channel can lie, by the type that they are stored in."""
        return tuple(limits_of(file.dtype) for file in self.files for _ in range(file.channels))

    def read(self) -> Iterator[tuple[int, int, npt.NDArray[np.float32]]]:
        """Channel, first row and voxels (i, j, rows): all of channel 0 in order, then of channel 1, …

        After the last slab, raises DataError with every fault that was met: files that are damaged, and
        voxels that are not finite numbers.
        """
        faults: list[str] = []
        before = 0
        for file in self.files:
            bad = 0
            try:
                for channel, first, slab in file.read():
                    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
                        numbers = slab.astype(np.float32)
                    if slab.dtype.kind == "f":
                        bad += numbers.size - int(np.isfinite(numbers).sum())
                    yield before + channel, first, numbers
            except DataError as error:
                faults.extend(error.lines)
            before += file.channels
            if bad:
                remedy = f"replace them, or drop case {self.case.name}"
                faults.append(f"{file.path}: {bad} voxels are NaN or infinite; {remedy}")
        if faults:
            raise DataError(*faults)


def limits_of(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The least and the largest number of a type; floats have none."""
    if dtype.kind not in "iu":
        return -np.inf, np.inf
    return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)


def open_image(
    case: Case,
    channels: int,
    *,
    tolerance_mm: float = 1e-3,
    pixel_mm: tuple[float, float] | None = None,
    by_model: bool = False,
) -> ImageSlabs:
    """One file per channel, or one file with several; only headers are read.

    `pixel_mm`: the size of pixels where a picture does not tell it. `by_model`: whether it is a trained
    model that wants so many `channels`, and not the dataset that names them.

    Raises DataError with every fault: an unreadable file, a wrong number of channels, channels on different
    grids.
    """
    try:
        files = tuple(slab_reader(path) for path in case.images)
    except DataError as error:
        raise DataError(*_every_fault(case)) from error
    faults: list[str] = []
    first = files[0]
    if fault := sheared(first.path, first.geometry):
        faults.append(fault)
    for file in files[1:]:
        faults.extend(
            f"{file.path}: {difference} of {first.path.name}; "
            + first.geometry.remedy(file.geometry, "resample one to the other's grid")
            for difference in first.geometry.differences(file.geometry, tolerance_mm)
        )
    if (found := sum(file.channels for file in files)) != channels:
        faults.append(_wrong_count(case, files, found, channels, by_model))
    if faults:
        raise DataError(*faults)
    return ImageSlabs(case, first.geometry.with_spacing(pixel_mm), files)


MOST_SHEAR_DEGREES = 10.0


def sheared(path: Path, geometry: Geometry) -> str:
    """A line where axes are far from perpendicular; else empty.

    Resampling goes along the axes, so the network would be shown a patient who is sheared as the grid is.
    """
    if geometry.shear_degrees <= MOST_SHEAR_DEGREES:
        return ""
    return (
        f"{path}: its axes are {geometry.shear_degrees:.0f} degrees from perpendicular, as with a tilted "
        "gantry; resample it to a grid with perpendicular axes"
    )


def read_image(
    case: Case, channels: int, *, tolerance_mm: float = 1e-3, pixel_mm: tuple[float, float] | None = None
) -> tuple[npt.NDArray[np.float32], Geometry]:
    """(channels, i, j, k) in the file's own axes, each channel in the order of the file, i fastest.

    Raises DataError as `open_image` and `ImageSlabs.read`.
    """
    slabs = open_image(case, channels, tolerance_mm=tolerance_mm, pixel_mm=pixel_mm)
    i, j, k = slabs.geometry.shape
    slabs.files[0].check_room(4 * channels * i * j * k)
    image = np.empty((channels, k, j, i), np.float32).transpose(0, 3, 2, 1)
    for channel, first, slab in slabs.read():
        image[channel, :, :, first : first + slab.shape[2]] = slab
    return image, slabs.geometry


def read_case_labels(
    case: Case, like: Geometry, values: Collection[int], *, tolerance_mm: float = 1e-3
) -> npt.NDArray[np.integer[Any]]:
    """The label map of a case, (i, j, k), on the image's grid `like` and with no value outside `values`.

    Raises DataError with every fault.
    """
    if case.label is None:
        raise DataError(f"{case.images[0]}: has no label; add one, or leave case {case.name} out of training")
    volume = read_labels(case.label)
    faults = [
        f"{case.label}: label {difference} of {case.images[0].name}; "
        f"{like.remedy(volume.geometry, 'resample one')}, or drop case {case.name}"
        for difference in like.differences(volume.geometry, tolerance_mm)
    ]
    if unknown := [value for value in values_of(volume.array) if value not in values]:
        known = ", ".join(map(str, sorted(values)))
        found = _values(unknown)
        faults.append(
            f"{case.label}: holds {found} that `labels` does not name (it has {known}); name or remove it"
        )
    if faults:
        raise DataError(*faults)
    return volume.array


def _every_fault(case: Case) -> Iterator[str]:
    """What is wrong with each of a case's files, read to the end, once one of them cannot be opened."""
    for path in case.images:
        try:
            for _ in slab_reader(path).read():
                pass
        except DataError as error:
            yield from error.lines


def _wrong_count(case: Case, files: Sequence[SlabReader], found: int, wanted: int, by_model: bool) -> str:
    file = next((file for file in files if file.channels > 1), files[0])
    shape = (*file.geometry.shape, file.channels) if file.channels > 1 else file.geometry.shape
    what = f"{len(files)} files" if len(files) > 1 else f"shape {shape}"
    has = f"{file.path}: case {case.name} has {found} channel{'' if found == 1 else 's'} ({what})"
    if by_model:
        return f"{has} where the model takes {wanted}; give it images of the kind that it was trained with"
    return f"{has} where the dataset names {wanted}; mend the file, or the dataset's channels"


def _values(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:8])) + (" …" if len(values) > 8 else "")
    return f"value {shown}" if len(values) == 1 else f"values {shown}"
