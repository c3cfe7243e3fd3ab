"""Whether a SEG lies on another grid than its image and may be laid on it, as its slices were resampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from medfuse.core.errors import DataError
from medfuse.core.geometry import Geometry
from medfuse.volumes.dicom.frames import Frame, frames_of, groups_of
from medfuse.volumes.dicom.grids import UPRIGHT_DEGREES
from medfuse.volumes.dicom.index import Index
from medfuse.volumes.dicom.instances import read_header
from medfuse.volumes.dicom.segments import LabelObject, reading, source_bytes
from medfuse.volumes.dicom.spots import ALONG_MM, Lies, Slices, slices_of, spot_of
from medfuse.volumes.dicom.values import text_of, whole_of

_WHOLE = 0.01


def slices_elsewhere(found: LabelObject, like: Geometry, index: Index | None) -> tuple[Slices | None, str]:
    """The slices of a SEG that lies on another grid than its image, and what to tell of it.

    So may lie a SEG that names images of the series, and one that leans as no grid of an image does. None of
    others, which are read voxel on voxel or refused. Raises DataError.
    """
    if found.kind != "SEG":
        return None, ""
    resampled = index is not None and bool(index.planes)
    frames, derived = _frames(found, first_alone=True)
    if _fit(found, frames, like) and not resampled:
        return None, ""
    frames, derived = _frames(found)
    if any(frame.position is None or frame.along_i is None or frame.pixel_mm is None for frame in frames):
        return None, ""
    known = _frames_before(index) if index and resampled else []
    fit = _fit(found, frames, like)
    if known and _are_among(frames, known) and (derived or not fit):
        slices = slices_of(frames, like, known)
        return slices, _told(slices, "lies on the slices as they were before they were resampled")
    named = index is not None and found.instances & {frame.uid for frame in index.frames}
    if fit or not (named or _leans(frames, like)):
        return None, ""
    slices = slices_of(frames, like)
    return slices, _told(slices, "lies on another grid than the image")


def _told(slices: Slices | None, what: str) -> str:
    return f"{what}: each voxel takes what is nearest of it" if slices else ""


def _frames(found: LabelObject, *, first_alone: bool = False) -> tuple[list[Frame], bool]:
    """What the header says of frames, and whether any of them names an image that it was made from."""
    from pydicom import dcmread

    with reading(found.place), source_bytes(found.source) as file:
        said = dcmread(file, stop_before_pixels=True, force=True)
        count = 1 if first_alone else whole_of(said.get("NumberOfFrames")) or 1
        size = whole_of(said.get("Columns")), whole_of(said.get("Rows"))
        made = list(frames_of(found.place, said, count, text_of(said.get("SOPClassUID")), size))
        derived = any(
            group.get("DerivationImageSequence") for n in range(count) for group in groups_of(said, n)
        )
        return made, derived


def _fit(found: LabelObject, frames: Sequence[Frame], like: Geometry) -> bool:
    """Whether frames lie voxel on voxel; of those that say not where they lie, others tell."""
    try:
        for frame in frames:
            if frame.position is not None and frame.along_i is not None and frame.pixel_mm is not None:
                spot_of(found.place, frame, like)
    except DataError:
        return False
    return True


def _frames_before(index: Index) -> list[Frame]:
    """The frames of a series that was resampled, as their files say where they lie. Raises DataError."""
    held: dict[tuple[int, int], Frame] = {}
    for number, source in enumerate(index.sources):
        with source_bytes(source) as file:
            instance = read_header(source.place, file)
        for frame in instance.frames if instance else ():
            held[number, frame.number] = frame
    return list(_in_order(index, held))


def _in_order(index: Index, held: dict[tuple[int, int], Frame]) -> Iterator[Frame]:
    for frame in index.frames:
        if (frame.source, frame.number) in held:
            yield held[frame.source, frame.number]


def _are_among(frames: Sequence[Frame], known: Sequence[Frame]) -> bool:
    """Whether each frame lies where one of the known ones does, pixel on pixel."""
    places = np.array([frame.position for frame in known])
    shapes = {frame.shape for frame in known}
    return all(
        frame.shape in shapes and np.linalg.norm(places - np.array(frame.position), axis=1).min() <= ALONG_MM
        for frame in frames
    )


def _leans(frames: Sequence[Frame], like: Geometry) -> bool:
    """Whether frames lie in slices of the image, pixels as large as its voxels, and aside of each other."""
    lies = [Lies.of(frame, like) for frame in frames]
    axes = lies[0].axes
    if axes is None or any(one.axes != axes for one in lies):
        return False
    i, j, k = axes
    sizes = np.array([(abs(one.steps[i, 0]), abs(one.steps[j, 1])) for one in lies])
    heights = np.array([one.origin[k] for one in lies])
    if np.abs(sizes - 1).max() > 1e-3 or np.abs(heights - np.rint(heights)).max() > _WHOLE:
        return False
    low, high = (np.array(frames[int(n)].position) for n in (heights.argmin(), heights.argmax()))
    normal = np.cross(frames[0].along_i or (), frames[0].along_j or ())
    up = float(abs((high - low) @ normal))
    aside = float(np.linalg.norm((high - low) - ((high - low) @ normal) * normal))
    return up > 0 and bool(np.degrees(np.arctan2(aside, up)) > UPRIGHT_DEGREES)
