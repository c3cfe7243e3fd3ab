"""RTSTRUCT as a label map: contours in patient millimetres, filled on the grid of an image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry
from medfuse.volumes.dicom.contours import Floats, filled
from medfuse.volumes.dicom.index import Source
from medfuse.volumes.dicom.painting import Painting
from medfuse.volumes.dicom.place import Place
from medfuse.volumes.dicom.segments import check_whole, reading, source_bytes
from medfuse.volumes.dicom.values import text_of, whole_of
from medfuse.volumes.headers import LPS

if TYPE_CHECKING:
    from pydicom import Dataset

_AREAS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "INTERPOLATED_PLANAR")
OFF, SAME = 0.25, 0.05
"""By how much of a slice's distance a contour may lie off its slice, and off another in the same slice."""
_EVENLY = 6
_MOST_SLICES = 1 << 14
_DATA = 0x30060050


def painted(
    source: Source, like: Geometry, values: Mapping[int, int], names: Mapping[int, str], order: Sequence[int]
) -> npt.NDArray[np.integer[Any]]:
    """The label map on the grid `like`, in whose slices, along any of its axes, all contours lie.

    A voxel belongs to a region where its centre is inside the contours of its slice by the even-odd rule,
    so that holes may be contours of their own or keyholes. Contours outside of the image are left out.
    values: number of a region → its value; others are left out. Raises DataError.
    """
    contours: dict[int, list[Floats]] = {}
    for number, areas in _drawn(source, values):
        own = [_indices(source.place, one, like, names[number]) for one in areas]
        contours.setdefault(number, []).extend(own)
    axis = _normal(source.place, [one for found in contours.values() for one in found], like)
    painting = Painting(like.shape, values, order)
    across = [n for n in range(3) if n != axis]
    slices = {
        number: _in_slices(source.place, _distinct(found), axis, names[number])
        for number, found in contours.items()
    }
    _check_dense(source.place, (k for own in slices.values() for k in own))
    within = False
    for number, parts in slices.items():
        for k, corners in parts.items():
            if 0 <= k < like.shape[axis]:
                where, mask = _mask([one[:, across] for one in corners], axis, k, like.shape)
                within |= bool(mask.any())
                painting.paint(number, where, mask)
    if not within and any(contours.values()):
        raise DataError(
            f"{source.place}: no contour holds a voxel of the image; give the image that it was drawn on"
        )
    return painting.finished(str(source.place), names)


def with_slices(source: Source, like: Geometry) -> Geometry:
    """The grid `like` with further slices k where contours lie before its first or beyond its last.

    Raises DataError.
    """
    found = [_indices(source.place, one, like, "a region") for _, own in _drawn(source, None) for one in own]
    ends = np.rint([one[:, 2].mean() for one in found]).astype(int)
    first, last = min([0, *ends.tolist()]), max([like.shape[2] - 1, *ends.tolist()])
    if last - first > _MOST_SLICES:
        raise DataError(
            f"{source.place}: its contours lie too far apart; give the image that it was drawn on"
        )
    affine = like.affine.copy()
    affine[:3, 3] += first * affine[:3, 2]
    return Geometry((like.shape[0], like.shape[1], last - first + 1), affine)


def _drawn(source: Source, wanted: Container[int] | None) -> Iterator[tuple[int, list[Floats]]]:
    """The closed contours of each region that is `wanted`, or of all that have some. Raises DataError."""
    from pydicom import dcmread

    with reading(source.place), source_bytes(source) as file:
        said = dcmread(file, force=True)
        check_whole(source.place, said)
        if "ROIContourSequence" not in said:
            raise DataError(
                f"{source.place}: holds no contours; copy it again from its source, or leave it out"
            )
        for number, item in _regions(source.place, said):
            if wanted is None or number in wanted:
                yield number, list(_areas(source.place, item, refuse=wanted is not None))


def _mask(
    corners: Sequence[Floats], axis: int, k: int, shape: tuple[int, int, int]
) -> tuple[tuple[int | slice, ...], npt.NDArray[np.bool_]]:
    """The voxels of a slice inside contours, and which part of the slice they are given for."""
    across = [n for n in range(3) if n != axis]
    ends = np.concatenate(corners)
    size = np.array([shape[n] for n in across])
    first = np.clip(np.floor(ends.min(0)).astype(int), 0, size)
    last = np.clip(np.ceil(ends.max(0)).astype(int) + 1, first, size)
    where: list[int | slice] = [k, k, k]
    for n, start, stop in zip(across, first.tolist(), last.tolist()):
        where[n] = slice(start, stop)
    i, j = (last - first).tolist()
    return tuple(where), filled([one - first for one in corners], (i, j))


def _regions(place: Place, said: Dataset) -> Iterator[tuple[int, Dataset]]:
    """What is drawn, by the number of its region. Raises DataError for one that is not named."""
    named = {whole_of(item.get("ROINumber")) for item in said.get("StructureSetROISequence") or []}
    for item in said.get("ROIContourSequence") or []:
        number = whole_of(item.get("ReferencedROINumber"))
        if number not in named:
            raise DataError(f"{place}: draws region {number}, which it does not name; copy it again")
        yield number, item


def _areas(place: Place, item: Dataset, *, refuse: bool) -> Iterator[Floats]:
    """The closed contours of a region, (n, 3) in LPS mm; beside them points and lines are left out.

    Raises DataError for what is no contour, and with `refuse` where there are points and lines alone.
    """
    kinds = set()
    number = whole_of(item.get("ReferencedROINumber"))
    for contour in item.get("ContourSequence") or []:
        kinds.add(kind := text_of(contour.get("ContourGeometricType")).upper())
        numbers = _numbers(contour)
        said = whole_of(contour.get("NumberOfContourPoints")) or len(numbers) / 3
        if len(numbers) != 3 * said or not np.isfinite(numbers).all():
            raise DataError(
                f"{place}: a contour of region {number} is no list of {said:g} points (x, y, z) in mm; "
                "export it again"
            )
        points = numbers.reshape(-1, 3)
        if kind in _AREAS and len(points) >= 3:
            yield points
    if refuse and kinds and not kinds & {*_AREAS}:
        raise DataError(
            f"{place}: region {number} consists of {' and '.join(sorted(kinds))}, which have no area; name a "
            "region of closed contours, or leave it out of the classes"
        )


def _numbers(contour: Dataset) -> Floats:
    """As they are in the file: pydicom's decimals are slow where there are millions."""
    raw = contour.get_item(_DATA) if _DATA in contour else None
    if raw is None or not raw.value:
        return np.empty(0)
    text = raw.value if isinstance(raw.value, bytes) else b"\\".join(str(x).encode() for x in raw.value)
    return np.array(text.rstrip(b" \0").split(b"\\"), np.float64)


def _indices(place: Place, points: Floats, like: Geometry, name: str) -> Floats:
    found = np.linalg.solve(like.affine[:3, :3], (points * LPS - like.affine[:3, 3]).T).T
    if np.abs(found).max() > 1e6:
        raise DataError(
            f"{place}: a contour of {name} lies {np.abs(points).max():.3g} mm away; export it again"
        )
    return found


def _normal(place: Place, contours: Sequence[Floats], like: Geometry) -> int:
    """The axis along which the contours' slices follow each other. Raises DataError where there is none."""
    if not contours:
        return 2
    widths = np.array([np.ptp(one, axis=0) for one in contours])
    flat = (widths <= 2 * OFF).sum(0)
    axis = int(flat.argmax())
    if bent := len(contours) - int(flat[axis]):
        raise DataError(
            f"{place}: {bent} of {len(contours)} contours lie in no slice of the image; give the image that "
            "it was drawn on, or export it as SEG"
        )
    least = widths.sum(0)
    candidates = [n for n in range(3) if flat[n] == flat[axis]]
    return min(candidates, key=lambda n: float(least[n]))


def _in_slices(place: Place, contours: Sequence[Floats], axis: int, name: str) -> dict[int, list[Floats]]:
    """By the slice in which they lie. Raises DataError where that is not one slice."""
    found: dict[int, list[Floats]] = defaultdict(list)
    heights: dict[int, float] = {}
    for one in contours:
        at = float(one[:, axis].mean())
        k = int(np.rint(at))
        if np.abs(one[:, axis] - k).max() > OFF or abs(heights.setdefault(k, at) - at) > SAME:
            raise DataError(
                f"{place}: contours of {name} lie between the slices of the image, beside slice {k + 1}; "
                "give the image that it was drawn on, or export it as SEG"
            )
        found[k].append(one)
    return found


def _check_dense(place: Place, slices: Iterable[int]) -> None:
    """Raises DataError where contours are evenly apart with slices between them: another image is coarser."""
    gaps = np.diff(sorted({*slices}))
    if len(gaps) >= _EVENLY and gaps[0] > 1 and (gaps == gaps[0]).all():
        raise DataError(
            f"{place}: its contours lie {gaps[0]} slices of the image apart, all of them; interpolate "
            "them, or give the image that it was drawn on, or export it as SEG"
        )


def _distinct(contours: Sequence[Floats]) -> list[Floats]:
    """Those that are there twice, once: they would undo each other."""
    return list({one.tobytes(): one for one in contours}.values())
