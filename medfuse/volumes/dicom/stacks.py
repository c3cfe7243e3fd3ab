"""From frames to a stack: sorted along its normal, doubled ones left out, even, and upright."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medfuse.core.errors import DataError
from medfuse.core.text import listed
from medfuse.volumes.dicom.frames import Frame
from medfuse.volumes.dicom.grids import Axes, Floats, Plane, as_they_are, evened, upright
from medfuse.volumes.dicom.instances import pixel_hash

SAME_MM = 0.01
SAME_PIXELS = 0.05
"""Frames that lie nearer than this are at one place: so many mm, of small pixels so many of them."""
UNEVEN = 0.01
UNEVEN_MM = 0.1
UNEVEN_MOST = 0.25
"""How far a slice may lie from its place, and a gap be other than the usual one: this share of the gap, or
so many mm, whichever is more; but never more than a part of it, as slices of small animals are thin."""
MOST_DEGREES = 45
"""No gantry is tilted by more: positions are wrong."""
_RESAMPLE = "fetch what is missing, or have slices resampled to even ones (--uneven resample)"
_ANEW = "copy them again from their source"
FEWEST, MOST = 3, 4
"""So many slices, and so many of them, have the acquisitions that a series may be parted into."""


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


def volumes(frames: Sequence[Frame], *, uneven: bool = False) -> list[tuple[str, Stack]]:
    """The volumes of frames that are alike, each with what tells it from the others.

    Those of the same places, such as echoes and phases, are told apart by their tags; so are acquisitions
    elsewhere that share a series, where each is even and all together are not.
    """
    made = []
    for name, own in told_apart(frames):
        whole = stacked(own)
        if whole.faults and (several := _acquisitions(own)):
            made += [(f"{name} {which}".strip(), stack) for which, stack in several]
        else:
            made.append((name, stacked(own, uneven=uneven) if whole.faults else whole))
    return made


def told_apart(frames: Sequence[Frame]) -> list[tuple[str, list[Frame]]]:
    """Volumes of the same places by the tags that tell them apart, such as echoes, or b-values and more.

    One without a name where places are not repeated, or no tags tell frames at one place apart.
    """
    if any(frame.position is None or not frame.along_i or not frame.along_j for frame in frames):
        return [("", list(frames))]
    places = {frame: n for n, place in enumerate(_places(frames)) for frame in place}
    names = tuple(dict.fromkeys(name for frame in frames for name, _ in frame.apart))
    return _told(list(frames), names, places) or [("", list(frames))]


def _told(
    frames: list[Frame], names: Sequence[str], places: Mapping[Frame, int]
) -> list[tuple[str, list[Frame]]]:
    """By one tag, or by one and then others; nothing where these do not tell them apart."""
    held = Counter(places[frame] for frame in frames)
    most = max(held.values())
    if most == 1:
        return [("", frames)]
    by = {name: _by(name, frames) for name in names}
    by = {name: groups for name, groups in by.items() if 1 < len(groups) <= most}
    for name, groups in by.items():
        whole = all(len({places[f] for f in group}) == len(group) for group in groups.values())
        if whole and len(groups) == most:
            return [(f"{name} {value}".strip(), group) for value, group in groups.items()]
    for name, groups in by.items():
        if any({places[f] for f in group} != {*held} for group in groups.values()):
            continue
        inner = {value: _told(group, names, places) for value, group in groups.items()}
        if all(inner.values()):
            return [
                (f"{name} {value} {more}".strip(), own) for value, told in inner.items() for more, own in told
            ]
    return []


def _by(name: str, frames: Sequence[Frame]) -> dict[str, list[Frame]]:
    groups: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[dict(frame.apart).get(name, "")].append(frame)
    return groups


def _acquisitions(frames: Sequence[Frame]) -> list[tuple[str, Stack]]:
    """Parts of a series by a tag that makes each of them even; nothing where there is no such tag."""
    for name in dict.fromkeys(name for frame in frames for name, _ in frame.apart):
        groups = _by(name, frames)
        if 1 < len(groups) <= MOST and min(map(len, groups.values())) >= FEWEST:
            stacks = [(f"{name} {value}".strip(), stacked(group)) for value, group in groups.items()]
            if not any(stack.faults for _, stack in stacks):
                return stacks
    return []


def _places(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames that lie at one place together, along the normal; the first by number before the others."""
    normal = np.cross(frames[0].along_i or (), frames[0].along_j or ())
    heights = {frame: float(np.array(frame.position) @ normal) for frame in frames}
    same = min(SAME_MM, SAME_PIXELS * min(frames[0].pixel_mm or (1.0,)))
    made: list[list[Frame]] = []
    near: list[list[Frame]] = []
    for frame in sorted(frames, key=lambda f: heights[f]):
        near = [place for place in near if heights[frame] - heights[place[0]] < same]
        fitting = (place for place in near if _apart_mm(place[0], frame) < same)
        if (place := next(fitting, None)) is None:
            place = []
            made.append(place)
            near.append(place)
        place.append(frame)
    return [sorted(place, key=lambda f: (f.order, f.number, str(f.place))) for place in made]


def _apart_mm(one: Frame, other: Frame) -> float:
    return float(np.linalg.norm(np.subtract(one.position or (), other.position or ())))


def stacked(frames: Sequence[Frame], *, uneven: bool = False) -> Stack:
    """The volume of frames that are alike. `uneven`: whether slices that are not even are resampled."""
    mm = frames[0].pixel_mm
    if mm is None or min(mm) <= 0:
        return _refused(frames, "say not how large a pixel is (PixelSpacing)", _ANEW)
    if any(f.along_i is None or f.along_j is None or f.position is None for f in frames):
        return _refused(frames, "say not where in the patient they lie (ImagePositionPatient)", _ANEW)
    axes = Axes(np.array(frames[0].along_i), np.array(frames[0].along_j), mm, frames[0].shape)
    if abs(axes.along_i @ axes.along_j) > 0.01:
        return _refused(frames, "have rows and columns that are not perpendicular", _ANEW)
    kept, notes, mixed = _without_doubles(frames)
    if mixed:
        return _refused(frames, mixed, "put the files of each into a folder of its own")
    at = np.array([frame.position for frame in kept], float)
    heights = at @ axes.normal
    notes += [f"slices are turned by a little against each other: {n}"] if (n := _turned(kept)) else []
    if len(kept) == 1:
        step = axes.normal * _thickness(kept[0])
        affine = axes.affine(at[0], step)
        return Stack(tuple(kept), (*axes.shape, 1), affine, as_they_are(1), tuple(notes))
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    if usual <= 0 or not np.isfinite(usual):
        return _refused(kept, "lie all at one place", _ANEW)
    fault = _unevenness(kept, heights, usual)
    if fault and uneven and (heights[-1] - heights[0]) / usual > 2 * len(kept):
        return _refused(kept, f"{fault}, and most of the slices between are not there")
    if fault and not uneven:
        return replace(_refused(kept, fault, _RESAMPLE), notes=tuple(notes))
    along = (at[-1] - at[0]) / (heights[-1] - heights[0])  # of the patient, per mm along the normal
    bent = at - at[0] - np.outer(heights - heights[0], along)
    if np.abs(bent).max() > max(UNEVEN_MM, 0.1 * min(mm)):
        return _refused(kept, f"do not lie on one line: slice {_worst(bent)} is moved to the side", _ANEW)
    lean = np.degrees(np.arccos(np.minimum(1, 1 / np.linalg.norm(along))))
    if lean > MOST_DEGREES:
        return _refused(kept, f"lean by {lean:.0f} degrees, which no gantry does", _ANEW)
    if fault:
        told = f"slices are {usual:.4g} mm apart, but {gaps.min():.4g} to {gaps.max():.4g} mm at places"
        notes.append(f"{told}: resampled to even ones")
        planes, even = evened(heights, usual)
        at, heights = at[0] + np.outer(even - even[0], along), even
    else:
        planes = as_they_are(len(kept))
    shape, affine, planes, leant = upright(axes, planes, at, heights)
    return Stack(tuple(kept), shape, affine, planes, (*notes, *leant))


def pictured(frame: Frame) -> Stack:
    """A radiograph, which has no place in the patient, as a picture: as those of other formats are."""
    x, y = frame.pixel_mm or (1.0, 1.0)
    return Stack((frame,), (*frame.shape, 1), np.diag([-x, -y, 1.0, 1.0]), as_they_are(1))


def _refused(frames: Sequence[Frame], why: str, remedy: str = "fetch what is missing") -> Stack:
    return Stack(tuple(frames), (*frames[0].shape, len(frames)), np.eye(4), (), (), (f"{why}; {remedy}",))


def _without_doubles(frames: Sequence[Frame]) -> tuple[list[Frame], list[str], str]:
    """Sorted by their place along the normal; of those at one place, the first by number. And the fault.

    Where most are doubled, and are no copies, they are several volumes, and which is whose nobody says.
    """
    places = _places(frames)
    several = [place for place in places if len(place) > 1]
    if 2 * len(several) > len(places) > 1 and any(len({*map(pixel_hash, place)}) > 1 for place in several):
        most = max(map(len, places))
        return [], [], f"lie up to {most} at one place, and no tag tells which belong together"
    doubled = [
        f"{frame.place} frame {frame.number + 1}" if frame.number else str(frame.place)
        for place in several
        for frame in place[1:]
    ]
    short = [name.rpartition("/")[2] for name in doubled]
    told = [f"left out, as another lies at the same place: {listed(short, 3)}"] if doubled else []
    return [place[0] for place in places], told, ""


def _turned(frames: Sequence[Frame]) -> str:
    most = max(float(np.abs(np.subtract(f.along_i or 0, frames[0].along_i or 0)).max()) for f in frames)
    return f"{np.degrees(most):.2f} degrees" if most > 1e-3 else ""


def _thickness(frame: Frame) -> float:
    return frame.thickness_mm if frame.thickness_mm and frame.thickness_mm > 0 else 1.0


def _unevenness(frames: Sequence[Frame], heights: Floats, usual: float) -> str:
    """Which gaps are other than the usual one, or where small ones add up; nothing where slices are even."""
    gaps = np.diff(heights)
    most = min(max(UNEVEN * usual, UNEVEN_MM), UNEVEN_MOST * usual)
    odd = [n for n, gap in enumerate(gaps) if abs(gap - usual) > most]
    told = [
        f"{_gap(gaps[n], usual)} between slices {n + 1} and {n + 2} ({_which(frames[n], frames[n + 1])})"
        for n in odd[:3]
    ]
    if odd:
        more = f", and {len(odd) - 3} more such gaps" if len(odd) > 3 else ""
        return f"are not evenly apart: {usual:.4g} mm, but {'; '.join(told)}{more}"
    off = np.abs(heights - np.linspace(heights[0], heights[-1], len(heights)))
    if off.max() > most:
        return (
            f"are not evenly apart: gaps of {gaps.min():.4g} to {gaps.max():.4g} mm add up, so that slice "
            f"{int(off.argmax()) + 1} lies {off.max():.4g} mm from its place"
        )
    return ""


def _which(one: Frame, other: Frame) -> str:
    if one.place == other.place:
        return f"frames {one.number + 1} and {other.number + 1}"
    return f"images {one.order} and {other.order}"


def _gap(gap: float, usual: float) -> str:
    missing = round(gap / usual) - 1
    if missing > 0 and abs(gap / usual - missing - 1) < 0.05:
        return f"{gap:.4g} mm ({missing} missing)"
    return f"{gap:.4g} mm"


def _worst(bent: Floats) -> int:
    return int(np.abs(bent).max(1).argmax()) + 1


def refuse(where: str, stack: Stack) -> None:
    """Raises DataError with why a stack is no volume, and what to do."""
    if stack.faults:
        raise DataError(*(f"{where}: its {len(stack.frames)} slices {fault}" for fault in stack.faults))
