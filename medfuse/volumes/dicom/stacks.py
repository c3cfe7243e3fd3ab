"""From frames to a stack: sorted along its normal, doubled ones left out, even, and upright."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from medfuse.core.errors import DataError
from medfuse.core.text import listed
from medfuse.volumes.dicom.instances import Frame
from medfuse.volumes.headers import LPS

SAME_MM = 0.01
"""Frames that lie nearer than this are at one place."""
UNEVEN = 0.01
UNEVEN_MM = 0.1
"""By how much a gap may be other than the usual one: this share of it, or so many mm, whichever is more."""
UPRIGHT_DEGREES = 0.5
"""A stack that leans more than this, and by more than a pixel in all, is resampled."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """A slice of the volume: frames, by their place in the stack, with weights, moved by (i, j) pixels."""

    of: tuple[tuple[int, float], ...]
    shift: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames in the order of their places, and the grid that they make.

    affine: index (i, j, k) → RAS+ mm. `planes`: the slices k. `notes`: what was left out or resampled.
    `faults`: why it is no volume; then there are no planes.
    """

    frames: tuple[Frame, ...]
    shape: tuple[int, int, int]
    affine: Floats
    planes: tuple[Plane, ...]
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


def parted(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames that may make one volume: of one matrix, orientation and pixel, in their order."""
    groups: list[list[Frame]] = []
    for frame in frames:
        fitting = (group for group in groups if _alike(group[0], frame))
        group = next(fitting, None)
        if group is None:
            groups.append([frame])
        else:
            group.append(frame)
    return groups


def _alike(one: Frame, other: Frame) -> bool:
    if one.shape != other.shape or (one.along_i is None) != (other.along_i is None):
        return False
    if one.along_i and other.along_i and one.along_j and other.along_j:
        turned = zip((*one.along_i, *one.along_j), (*other.along_i, *other.along_j))
        if max(abs(a - b) for a, b in turned) > 2e-3:
            return False
    return one.pixel_mm == other.pixel_mm or bool(
        one.pixel_mm and other.pixel_mm and np.allclose(one.pixel_mm, other.pixel_mm, rtol=1e-4)
    )


def told_apart(frames: Sequence[Frame]) -> list[tuple[str, list[Frame]]]:
    """Volumes of the same places, such as echoes and phases, by the tag that tells them apart.

    One without a name where places are not repeated, or no tag tells frames at one place apart.
    """
    places = Counter(_place(frame) for frame in frames)
    if len(places) == len(frames) or any(frame.position is None for frame in frames):
        return [("", list(frames))]
    names = dict.fromkeys(name for frame in frames for name, _ in frame.apart)
    for name in names:
        groups: dict[str, list[Frame]] = defaultdict(list)
        for frame in frames:
            groups[dict(frame.apart).get(name, "")].append(frame)
        held = [{_place(frame) for frame in group} for group in groups.values()]
        whole = all(len(places) == len(group) for places, group in zip(held, groups.values()))
        if len(groups) > 1 and whole and all(one == held[0] for one in held):
            return [(f"{name} {value}".strip(), group) for value, group in groups.items()]
    return [("", list(frames))]


def _place(frame: Frame) -> tuple[float, ...]:
    return tuple(round(x / (10 * SAME_MM)) for x in frame.position or ())


def stacked(frames: Sequence[Frame], *, uneven: bool = False) -> Stack:
    """The volume of frames that are alike. `uneven`: whether slices that are not even are resampled."""
    columns, rows = frames[0].shape
    if frames[0].pixel_mm is None or min(frames[0].pixel_mm) <= 0:
        return _refused(frames, "say not how large a pixel is (PixelSpacing)")
    if any(f.along_i is None or f.along_j is None or f.position is None for f in frames):
        return _refused(frames, "say not where in the patient they lie (ImagePositionPatient)")
    along_i, along_j = np.array(frames[0].along_i), np.array(frames[0].along_j)
    if abs(along_i @ along_j) > 0.01:
        return _refused(frames, "have rows and columns that are not perpendicular")
    normal = np.cross(along_i, along_j)
    kept, notes = _without_doubles(frames, normal)
    at = np.array([frame.position for frame in kept], float)
    heights = at @ normal
    notes += [f"slices are turned by a little against each other: {n}"] if (n := _turned(kept)) else []
    if len(kept) == 1:
        step = normal * _thickness(kept[0])
        return _upright(kept, (columns, rows, 1), along_i, along_j, at[0], step, notes)
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    odd = [n for n, gap in enumerate(gaps) if abs(gap - usual) > max(UNEVEN * usual, UNEVEN_MM)]
    if usual <= 0 or not np.isfinite(usual):
        return _refused(kept, "lie all at one place")
    if odd and not uneven:
        return replace(_refused(kept, _unevenness(kept, gaps, usual, odd)), notes=tuple(notes))
    along = (at[-1] - at[0]) / (heights[-1] - heights[0])  # of the patient, per mm along the normal
    bent = at - at[0] - np.outer(heights - heights[0], along)
    if np.abs(bent).max() > max(UNEVEN_MM, 0.1 * min(kept[0].pixel_mm or (1.0,))):
        return _refused(kept, f"do not lie on one line: slice {_worst(bent)} is moved to the side")
    if odd:
        notes.append(f"slices are {usual:.4g} mm apart, {_seldom(odd, gaps)}: resampled to even ones")
        return _evened(kept, (columns, rows), along_i, along_j, normal, at, heights, usual, notes)
    planes = tuple(Plane(((n, 1.0),)) for n in range(len(kept)))
    return _leant(kept, planes, (columns, rows), along_i, along_j, normal, at, heights, notes)


def _refused(frames: Sequence[Frame], why: str) -> Stack:
    return Stack(tuple(frames), (*frames[0].shape, len(frames)), np.eye(4), (), (), (why,))


def _without_doubles(frames: Sequence[Frame], normal: Floats) -> tuple[list[Frame], list[str]]:
    """Sorted by their place along the normal; of those at one place, the first by number."""
    order = sorted(
        frames, key=lambda f: (float(np.array(f.position) @ normal), f.order, f.number, str(f.place))
    )
    kept: list[Frame] = []
    doubled: list[str] = []
    for frame in order:
        if kept and _near(kept[-1], frame):
            doubled.append(
                str(frame.place) if frame.number == 0 else f"{frame.place} frame {frame.number + 1}"
            )
        else:
            kept.append(frame)
    short = [name.rpartition("/")[2] for name in doubled]
    return kept, [f"left out, as another lies at the same place: {listed(short, 3)}"] if doubled else []


def _near(one: Frame, other: Frame) -> bool:
    apart = np.subtract(one.position or (), other.position or ())
    return bool(np.linalg.norm(apart) < SAME_MM)


def _turned(frames: Sequence[Frame]) -> str:
    most = max(float(np.abs(np.subtract(f.along_i or 0, frames[0].along_i or 0)).max()) for f in frames)
    return f"{np.degrees(most):.2f} degrees" if most > 1e-3 else ""


def _thickness(frame: Frame) -> float:
    return frame.thickness_mm if frame.thickness_mm and frame.thickness_mm > 0 else 1.0


def _unevenness(frames: Sequence[Frame], gaps: Floats, usual: float, odd: Sequence[int]) -> str:
    told = [
        f"{_gap(gaps[n], usual)} between slices {n + 1} and {n + 2} (images {frames[n].order} and "
        f"{frames[n + 1].order})"
        for n in odd[:3]
    ]
    more = f", and {len(odd) - 3} more such gaps" if len(odd) > 3 else ""
    return f"are not evenly apart: {usual:.4g} mm, but {'; '.join(told)}{more}"


def _gap(gap: float, usual: float) -> str:
    missing = round(gap / usual) - 1
    if missing > 0 and abs(gap / usual - missing - 1) < 0.05:
        return f"{gap:.4g} mm ({missing} missing)"
    return f"{gap:.4g} mm"


def _seldom(odd: Sequence[int], gaps: Floats) -> str:
    return f"{gaps[list(odd)].min():.4g} to {gaps[list(odd)].max():.4g} at {len(odd)} places"


def _worst(bent: Floats) -> int:
    return int(np.abs(bent).max(1).argmax()) + 1


def _evened(
    frames: Sequence[Frame],
    shape: tuple[int, int],
    along_i: Floats,
    along_j: Floats,
    normal: Floats,
    at: Floats,
    heights: Floats,
    step: float,
    notes: list[str],
) -> Stack:
    """Slices at even places, each between the two that are nearest."""
    count = int(np.floor((heights[-1] - heights[0]) / step + 1e-6)) + 1
    even = heights[0] + step * np.arange(count)
    after = np.clip(np.searchsorted(heights, even - 1e-6 * step), 1, len(heights) - 1)
    share = np.clip((even - heights[after - 1]) / (heights[after] - heights[after - 1]), 0, 1)
    planes = tuple(
        Plane(tuple((int(n), float(w)) for n, w in ((a - 1, 1 - s), (a, s)) if w > 1e-6))
        for a, s in zip(after, share)
    )
    along = (at[-1] - at[0]) / (heights[-1] - heights[0])
    places = at[0] + np.outer(even - even[0], along)
    return _leant(frames, planes, shape, along_i, along_j, normal, places, even, notes)


def _leant(
    frames: Sequence[Frame],
    planes: tuple[Plane, ...],
    shape: tuple[int, int],
    along_i: Floats,
    along_j: Floats,
    normal: Floats,
    at: Floats,
    heights: Floats,
    notes: list[str],
) -> Stack:
    """The stack as it is, or where it leans on perpendicular axes, each slice moved in its plane."""
    count = len(planes)
    mm = frames[0].pixel_mm or (1.0, 1.0)
    step = (at[-1] - at[0]) / (count - 1)
    height = (heights[-1] - heights[0]) / (count - 1)
    aside = np.array([step @ along_i / mm[0], step @ along_j / mm[1]])  # pixels from slice to slice
    degrees = float(np.degrees(np.arctan2(np.linalg.norm(step - height * normal), height)))
    if degrees < UPRIGHT_DEGREES or np.abs(aside).max() * (count - 1) < 1:
        stack = _upright(frames, (*shape, count), along_i, along_j, at[0], step, notes)
        return replace(stack, planes=planes)
    moves = np.outer(np.arange(count), aside)
    low = np.floor(moves.min(0) + 1e-6)
    size = (np.array(shape) + np.ceil(moves.max(0) - 1e-6) - low).astype(int)
    origin = at[0] + low[0] * mm[0] * along_i + low[1] * mm[1] * along_j
    notes = [*notes, f"slices lean by {degrees:.1f} degrees (gantry tilt): resampled to perpendicular axes"]
    stack = _upright(
        frames, (int(size[0]), int(size[1]), count), along_i, along_j, origin, height * normal, notes
    )
    moved = tuple(
        Plane(plane.of, (float(i - low[0]), float(j - low[1]))) for plane, (i, j) in zip(planes, moves)
    )
    return replace(stack, planes=moved)


def _upright(
    frames: Sequence[Frame],
    shape: tuple[int, int, int],
    along_i: Floats,
    along_j: Floats,
    origin: Floats,
    step: Floats,
    notes: Sequence[str],
) -> Stack:
    mm = frames[0].pixel_mm or (1.0, 1.0)
    affine = np.eye(4)
    affine[:3] = np.stack([along_i * mm[0], along_j * mm[1], step, origin], axis=1) * LPS[:, None]
    planes = tuple(Plane(((n, 1.0),)) for n in range(shape[2]))
    return Stack(tuple(frames), shape, affine, planes, tuple(notes))


def refuse(where: str, stack: Stack) -> None:
    """Raises DataError with why a stack is no volume, and what to do."""
    if stack.faults:
        remedy = "fetch what is missing"
        if "evenly" in stack.faults[0]:
            remedy += ", or have slices resampled to even ones (--uneven resample)"
        raise DataError(
            *(f"{where}: its {len(stack.frames)} slices {fault}; {remedy}" for fault in stack.faults)
        )
