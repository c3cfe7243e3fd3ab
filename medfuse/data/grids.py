"""What is suspicious about the grids of cases: sizes, spacings and extents that do not go together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medfuse.core.text import by, listed
from medfuse.data.fingerprint import CaseFacts
from medfuse.data.seen import plane_of

LOST_SIZES = 1.8
"""Times that sizes in voxels differ, along two axes at least, where spacings that are all 1 mm are not
believed. Matrices of scanners come in steps of two; volumes that are 1 mm in truth differ by less, or along
one axis."""
OTHER_SPACING = 1.6
"""Times that spacings differ along an axis, at least, of cases of the same size that cannot show the same."""
MANY = 20
"""Of so many cases one at each end tells nothing of all."""
SAME_SIZES = 1.3
"""Times that sizes may differ of cases that ought to show about the same extent."""
THIN = 0.1
"""Of its width: a stack that is no thicker at 1 mm a slice has slices that are thicker."""
FIELDS = 1.6
"""Times between the 5th and the 95th percentile of extents: bodies alone differ by less."""
DEFAULTS_MM = (1.0, 0.001)
"""What a format has where nobody says a spacing: 1, in millimetres or in micrometres."""
LARGE_MM = 10.0
"""No scanner has voxels so large along all three axes."""
_NAMED = 3


def lost_spacing(cases: Sequence[CaseFacts]) -> Iterator[str]:
    """Spacings of all cases, or of some, that are what a file says that was told none."""
    shapes, spacings = _shapes(cases), _spacings(cases)
    told_none = np.array([_told_none(case.spacing_mm) for case in cases])
    if np.allclose(spacings, spacings[0], rtol=1e-4):
        ranked, end = np.sort(shapes, axis=0), int(len(cases) >= MANY)
        least, most = ranked[end], ranked[-1 - end]
        varied = most >= LOST_SIZES * least
        if sum(varied[axis] for axis in default_axes(spacings[0])) >= 2:
            yield (
                f"warning: every case has a spacing of {mm(spacings[0])} mm, but sizes go from "
                f"{_size(least)} to {_size(most)} voxels; {_PROBABLY_LOST}"
            )
    elif told_none.any() and not told_none.all():
        size, spacing = (np.median(rows[told_none], axis=0) for rows in (shapes, spacings))
        other_size, other = (np.median(rows[~told_none], axis=0) for rows in (shapes, spacings))
        if _times(size, other_size) < SAME_SIZES and _times(spacing, other) >= OTHER_SPACING:
            names = [case.name for case, lost in zip(cases, told_none) if lost]
            yield (
                f"warning: {_of_all(names, cases)} a spacing of {mm(spacing)} mm, where cases of about as "
                f"many voxels have {mm(other)}; {_PROBABLY_LOST}"
            )


_PROBABLY_LOST = (
    "it was probably lost, so that nothing tells how large a structure is: give the true spacings (of "
    "pictures, `preprocess.pixel_mm`); until then scaling by more makes up for some of it "
    "(`augment.scale_range`, which `medfuse init` plans)"
)


def lost_distance(cases: Sequence[CaseFacts]) -> Iterator[str]:
    """Stacks of a few slices whose voxels are said to be cubes."""
    size = np.median(_shapes(cases), axis=0)
    axis = int(size.argmin())
    width = float(np.delete(size, axis).min())
    if all(_told_none(case.spacing_mm) for case in cases) and 1 < size[axis] < THIN * width:
        side = cases[0].spacing_mm[axis]
        yield (
            f"warning: every case has a spacing of {mm(cases[0].spacing_mm)} mm, by which the median one "
            f"shows {side * size[axis]:.0f} mm of a body that is {side * width:.0f} mm wide; the distance "
            "of its slices was probably lost: give it, else a network for cubes is planned"
        )


def _told_none(spacing_mm: Sequence[float]) -> bool:
    """Whether voxels are cubes of a side that is a default, or larger than any scanner's."""
    return len(default_axes(spacing_mm)) == 3


def default_axes(spacing_mm: Sequence[float]) -> list[int]:
    """The axes along which a spacing is one that no scanner has, or that stands for none.

    Slices may have kept their distance where pixels have lost their size.
    """
    axes = [axis for axis in range(3) if any(np.isclose(spacing_mm[axis], d, rtol=1e-4) for d in DEFAULTS_MM)]
    large = min(spacing_mm) >= LARGE_MM and np.allclose(spacing_mm, spacing_mm[0], rtol=1e-4)
    return [0, 1, 2] if large else axes


def fields_of_view(cases: Sequence[CaseFacts]) -> Iterator[str]:
    """Extents that differ by more than bodies do. Of single slices `single_slices` tells."""
    found = []
    for axis, name in enumerate("xyz"):
        extents = [case.shape[axis] * case.spacing_mm[axis] for case in cases if case.shape[axis] > 1]
        least, most = np.percentile(extents, (5, 95)) if extents else (1, 1)
        if most > FIELDS * least:
            found.append(f"{least:.3g} to {most:.3g} mm along {name}")
    if found:
        yield (
            f"warning: fields of view differ: {', '.join(found)} (5th to 95th percentile), so that patches "
            "see less or more of the body; crop all cases to what each of them shows, or have both kinds "
            "train and judge"
        )


def orientations(cases: Sequence[CaseFacts]) -> Iterator[str]:
    """Stacks that were taken in different planes."""
    across: dict[str, list[str]] = {}
    for case in cases:
        if plane := plane_of(case.shape, case.spacing_mm):
            across.setdefault(plane, []).append(case.name)
    if len(across) > 1:
        most_first = sorted(across.items(), key=lambda kind: -len(kind[1]))
        told = [f"across {axis} in {len(names)} ({listed(names, _NAMED)})" for axis, names in most_first]
        yield (
            f"warning: slices lie in several planes: {', '.join(told)}; no spacing suits all, so train a "
            "model for each plane, or leave the fewer out"
        )


def single_slices(cases: Sequence[CaseFacts]) -> Iterator[str]:
    """Slices among volumes."""
    for axis, name in enumerate("xyz"):
        flat = [case.name for case in cases if case.shape[axis] == 1]
        if 0 < len(flat) < len(cases):
            yield (
                f"warning: {_of_all(flat, cases)} one voxel along {name}, and the others are volumes; leave "
                "them out, or plan a network of slices (`medfuse init --dimensions 2`)"
            )


def usual_spacing(cases: Sequence[CaseFacts]) -> tuple[float, ...]:
    return tuple(float(side) for side in np.median(_spacings(cases), axis=0))


def mm(spacing: Sequence[float] | npt.NDArray[Any]) -> str:
    return " × ".join(f"{side:.3g}" for side in spacing)


def _size(shape: npt.NDArray[Any]) -> str:
    return by(round(n) for n in shape)


def _of_all(names: Sequence[str], cases: Sequence[CaseFacts]) -> str:
    has = "has" if len(names) == 1 else "have"
    return f"{len(names)} of {len(cases)} cases ({listed(names, _NAMED)}) {has}"


def _times(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """How many times the larger is the smaller, at most."""
    return float(np.maximum(one / other, other / one).max())


def _shapes(cases: Sequence[CaseFacts]) -> npt.NDArray[np.float64]:
    return np.array([case.shape for case in cases], float)


def _spacings(cases: Sequence[CaseFacts]) -> npt.NDArray[np.float64]:
    return np.array([case.spacing_mm for case in cases], float)
