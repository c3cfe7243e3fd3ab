"""DICOM-SEG as a label map: frames laid on the grid of an image by their own places."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry
from medfuse.core.text import by
from medfuse.volumes.dicom.frames import Frame, frames_of
from medfuse.volumes.dicom.index import Source
from medfuse.volumes.dicom.instances import MOST_FRAMES, MOST_SIDE
from medfuse.volumes.dicom.painting import Painting
from medfuse.volumes.dicom.pixels import check_syntaxes, complete
from medfuse.volumes.dicom.place import Place
from medfuse.volumes.dicom.segments import check_whole, is_label_map, reading, source_bytes
from medfuse.volumes.dicom.spots import ALONG_MM, Slices, nearest_spots, spot_of
from medfuse.volumes.dicom.stacks import SAME_MM, parted
from medfuse.volumes.dicom.values import reals_of, text_of, whole_of
from medfuse.volumes.headers import LPS

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True, eq=False)
class Frames:
    """The frames of a SEG, and to which segment each belongs: to 0 those of a label map."""

    place: Place
    said: Dataset
    frames: tuple[Frame, ...]
    segments: tuple[int, ...]
    known: frozenset[int]


def read_frames(source: Source) -> Frames:
    """All of a SEG but what its voxels say. Raises DataError."""
    from pydicom import dcmread

    place = source.place
    with reading(place), source_bytes(source) as file:
        said = dcmread(file, force=True)
        check_whole(place, said)
        complete(said)
        check_syntaxes(str(place), [text_of(said.file_meta.TransferSyntaxUID)])
        size = whole_of(said.get("Columns")), whole_of(said.get("Rows"))
        count = whole_of(said.get("NumberOfFrames")) or 1
        if not 0 < count <= MOST_FRAMES or not all(0 < n <= MOST_SIDE for n in size):
            raise DataError(f"{place}: says {count} frames of {by(size)} pixels; copy it again")
        uid = text_of(said.get("SOPClassUID"))
        frames = tuple(frames_of(place, said, count, uid, size))
        if any(f.position is None or f.along_i is None or f.pixel_mm is None for f in frames):
            raise DataError(f"{place}: does not say where its frames lie in the patient; export it again")
        whole = is_label_map(said)
        segments = tuple(0 if whole else _segment(said, n) for n in range(count))
        known = {0, *(whole_of(item.get("SegmentNumber")) for item in said.get("SegmentSequence") or [])}
        if not whole and 0 in segments:
            raise DataError(
                f"{place}: frame {segments.index(0) + 1} does not say of which segment it is; export it again"
            )
        _check_named(place, segments, known)
        return Frames(place, said, frames, segments, frozenset(known))


def _check_named(place: Place, numbers: Iterable[int], known: Collection[int]) -> None:
    """Raises DataError where a segment is there that the file does not name."""
    if odd := sorted({*numbers} - {*known}):
        raise DataError(f"{place}: holds segment {odd[0]}, which it does not name; copy it again")


def _segment(said: Dataset, n: int) -> int:
    own = said.get("PerFrameFunctionalGroupsSequence") or []
    for group in (*([own[n]] if n < len(own) else []), *(said.get("SharedFunctionalGroupsSequence") or [])):
        for item in group.get("SegmentIdentificationSequence") or []:
            return whole_of(item.get("ReferencedSegmentNumber"))
    return 0


def own_grid(several: Sequence[Frames]) -> Geometry:
    """The grid on which the frames of one SEG, or of several, lie. Raises DataError where there is none."""
    place = several[0].place
    frames = [frame for one in several for frame in one.frames]
    if len(parted(frames)) > 1:
        raise DataError(f"{place}: its frames lie in several directions; give the image that it is of")
    first = frames[0]
    along_i, along_j = np.array(first.along_i), np.array(first.along_j)
    normal = np.cross(along_i, along_j)
    at = np.array([frame.position for frame in frames])
    heights = at @ normal
    order = np.argsort(heights)
    gaps = np.diff(heights[order])
    gaps = gaps[gaps > SAME_MM]
    step = float(gaps.min()) if len(gaps) else first.thickness_mm or 1.0
    if len(gaps):
        step = float(gaps.sum() / np.rint(gaps / step).sum())
    whole = np.rint((heights - heights.min()) / step)
    off = np.abs(at - at[order[0]] - np.outer(whole * step, normal)).max()
    if off > max(ALONG_MM, SAME_MM):
        raise DataError(f"{place}: its frames are not evenly apart; give the image that it is of")
    mm = first.pixel_mm or (1.0, 1.0)
    affine = np.eye(4)
    affine[:3] = np.stack([along_i * mm[0], along_j * mm[1], normal * step, at[order[0]]], 1) * LPS[:, None]
    return Geometry((*first.shape, int(whole.max()) + 1), affine)


def painted(
    found: Frames,
    like: Geometry,
    values: Mapping[int, int],
    names: Mapping[int, str],
    order: Sequence[int],
    slices: Slices | None = None,
) -> npt.NDArray[np.integer[Any]]:
    """The label map on the grid `like`, which the frames are on up to order, flips, and empty ones.

    values: number of a segment → its value; others are left out. slices: those of frames that are on another
    grid; then each voxel takes what is nearest. Raises DataError.
    """
    painting = Painting(like.shape, values, order)
    if slices:
        spots = [nearest_spots(found.place, frame, like, slices) for frame in found.frames]
    else:
        spots = [[spot_of(found.place, frame, like)] for frame in found.frames]
    wanted = [n for n, segment in enumerate(found.segments) if segment in values or not segment]
    outside = lost = 0
    with reading(found.place):
        for n, pixels in zip(wanted, _pixels(found, wanted)):
            if pixels.shape != found.frames[n].shape[::-1]:
                raise DataError(
                    f"{found.place}: frame {n + 1} has {by(pixels.shape[::-1])} pixels; copy it again"
                )
            if not found.segments[n]:
                _check_named(found.place, np.flatnonzero(np.bincount(pixels.ravel())).tolist(), found.known)
            for spot in spots[n]:
                if not spot.inside:
                    outside += _labelled(pixels, found.segments[n], values)
                elif found.segments[n]:
                    painting.paint(found.segments[n], spot.where, spot.turned(pixels))
                else:
                    painting.paint_numbers(spot.where, spot.turned(pixels))
            if slices and not any(spots[n]):
                lost += _labelled(pixels, found.segments[n], values)
    if outside:
        raise DataError(
            f"{found.place}: {outside} of its voxels lie beyond the slices of the image; give the image that "
            "it is of"
        )
    label_map = painting.finished(str(found.place), names)
    if lost and not label_map.any():
        raise DataError(f"{found.place}: all of it lies beyond the image; give the image that it is of")
    return label_map


def _labelled(pixels: npt.NDArray[Any], segment: int, values: Mapping[int, int]) -> int:
    """How many pixels of a frame are of a segment that has a value."""
    return int(pixels.sum() if segment else np.isin(pixels, [*values]).sum())


def _pixels(found: Frames, wanted: Sequence[int]) -> Iterator[npt.NDArray[Any]]:
    """Frames (row, column): numbers of segments of a label map, else whether a pixel is of the segment."""
    from pydicom.pixels.utils import iter_pixels

    said = found.said
    if not wanted:
        return
    syntax = said.file_meta.TransferSyntaxUID
    if whole_of(said.get("BitsAllocated")) == 1 and syntax.is_little_endian and not syntax.is_encapsulated:
        size = found.frames[0].shape[0] * found.frames[0].shape[1]
        packed = np.frombuffer(said.PixelData, np.uint8)
        if 8 * len(packed) < size * len(found.frames):
            raise DataError(f"{found.place}: is truncated or damaged; copy it again from its source")
        for n in wanted:
            bits = np.unpackbits(packed[n * size // 8 : -(-(n + 1) * size // 8)], bitorder="little")
            start = n * size % 8
            yield bits[start : start + size].reshape(found.frames[0].shape[::-1]).astype(bool)
        return
    half = 1.0
    if text_of(said.get("SegmentationType")) == "FRACTIONAL":
        (most,) = reals_of(said.get("MaximumFractionalValue"), 1) or (255.0,)
        half = most / 2
    for n, pixels in zip(wanted, iter_pixels(said, indices=list(wanted))):
        yield pixels >= half if found.segments[n] else pixels
