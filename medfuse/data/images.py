"""A case's image as one array, whatever files it is spread over."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.api import Case
from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry
from medfuse.core.volumes import Volume, read_labels, read_volume


def read_image(
    case: Case, channels: int, *, tolerance_mm: float = 1e-3
) -> tuple[npt.NDArray[np.float32], Geometry]:
    """(channels, i, j, k) in the file's own axes: one file per channel, or one 4-D file with channels last.

    Raises DataError with every fault: an unreadable file, a wrong number of channels, channels on different
    grids, voxels that are not finite numbers.
    """
    faults: list[str] = []
    volumes: list[tuple[Path, Volume]] = []
    for path in case.images:
        try:
            volumes.append((path, read_volume(path)))
        except DataError as error:
            faults.extend(error.lines)
    if faults:
        raise DataError(*faults)
    parts = [_channels(path, volume) for path, volume in volumes]
    first, geometry = volumes[0][0], volumes[0][1].geometry
    for path, volume in volumes[1:]:
        faults.extend(
            f"{path}: {difference} of {first.name}; resample one to the other's grid"
            for difference in geometry.differences(volume.geometry, tolerance_mm)
        )
    if (found := sum(len(part) for part in parts)) != channels:
        faults.append(_wrong_count(case, volumes, found, channels))
    for (path, _), part in zip(volumes, parts):
        if bad := part.size - int(np.isfinite(part).sum()):
            faults.append(f"{path}: {bad} voxels are NaN or infinite; replace them, or drop case {case.name}")
    if faults:
        raise DataError(*faults)
    return parts[0] if len(parts) == 1 else np.concatenate(parts), geometry


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
        f"{case.label}: label {difference} of {case.images[0].name}; resample one, or drop case {case.name}"
        for difference in like.differences(volume.geometry, tolerance_mm)
    ]
    if unknown := [int(v) for v in np.unique(volume.array) if int(v) not in values]:
        known = ", ".join(map(str, sorted(values)))
        found = _values(unknown)
        faults.append(
            f"{case.label}: holds {found} that `labels` does not name (it has {known}); name or remove it"
        )
    if faults:
        raise DataError(*faults)
    return volume.array


def _channels(path: Path, volume: Volume) -> npt.NDArray[np.float32]:
    array = volume.array
    if array.dtype.kind not in "iufb":
        raise DataError(
            f"{path}: holds {array.dtype} voxels (colour or complex); convert it to one number per voxel"
        )
    array = np.moveaxis(array, 3, 0) if array.ndim == 4 else array[None]
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite and is reported
        return np.ascontiguousarray(array, dtype=np.float32)


def _wrong_count(case: Case, volumes: list[tuple[Path, Volume]], found: int, wanted: int) -> str:
    path, volume = next((pair for pair in volumes if pair[1].array.ndim == 4), volumes[0])
    what = f"{len(volumes)} files" if len(volumes) > 1 else f"shape {volume.array.shape}"
    return (
        f"{path}: case {case.name} has {found} channels ({what}) where the dataset names {wanted}; "
        f"mend the file, or the dataset's channels"
    )


def _values(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:8])) + (" …" if len(values) > 8 else "")
    return f"value {shown}" if len(values) == 1 else f"values {shown}"
