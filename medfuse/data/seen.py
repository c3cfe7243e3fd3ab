"""What the images were like that a plan was made from: by it others are known to be of another kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medfuse.data.fingerprint import CaseFacts, Fingerprint
from medfuse.data.profile import Profile, shape_of

Spacing = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Seen:
    """The least and the most of all cases: spacing in mm and shape along each axis (RAS+), and the values of
    each channel (none where they were not measured).

    What older weights do not know is empty: the number of `cases`; extents in mm; the modalities of each file
    that DICOM names; by how many degrees grids were turned against the patient, at most; across which axes
    slices lay; of each channel the ends of its `percentiles`, and of what stays of them in any unit (see
    `data.profile`).
    """

    spacing_mm: tuple[Spacing, Spacing]
    shape: tuple[Shape, Shape]
    values: tuple[tuple[float, float], ...]
    cases: int = 0
    extent_mm: tuple[Spacing, ...] = ()
    modalities: tuple[tuple[str, ...], ...] = ()
    oblique_degrees: float | None = None
    planes: tuple[str, ...] = ()
    percentiles: tuple[tuple[Profile, Profile], ...] = ()
    shapes: tuple[tuple[Profile, Profile], ...] = ()

    @classmethod
    def of(cls, fingerprint: Fingerprint) -> Seen:
        cases = fingerprint.cases
        return cls(
            _ends([case.spacing_mm for case in cases]),
            _ends([case.shape for case in cases]),
            _values(cases),
            len(cases),
            _ends([extent(case.shape, case.spacing_mm) for case in cases]),
            _modalities(cases),
            max((case.oblique_degrees for case in cases if case.oblique_degrees is not None), default=None),
            tuple(sorted({plane_of(case.shape, case.spacing_mm) for case in cases})),
            _profiles([case.percentiles for case in cases]),
            _profiles([[shape_of(one) for one in case.percentiles] for case in cases]),
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Seen:
        spacing, shape = ([tuple(end) for end in data[name]] for name in ("spacing_mm", "shape"))
        values = tuple((low, high) for low, high in data["values"])
        return cls(
            (spacing[0], spacing[1]),
            (shape[0], shape[1]),
            values,
            data.get("cases", 0),
            tuple((x, y, z) for x, y, z in data.get("extent_mm", ())),
            tuple(tuple(one) for one in data.get("modalities", ())),
            data.get("oblique_degrees"),
            tuple(data.get("planes", ())),
            *(
                tuple((tuple(low), tuple(high)) for low, high in data.get(name, ()))
                for name in ("percentiles", "shapes")
            ),
        )


def extent(shape: Sequence[int], spacing_mm: Sequence[float]) -> Spacing:
    """How far a grid reaches along each axis, in mm."""
    x, y, z = (n * mm for n, mm in zip(shape, spacing_mm))
    return x, y, z


COARSE = 2.0
"""Times that one spacing is beyond both others where slices lie across its axis."""


def plane_of(shape: Sequence[int], spacing_mm: Sequence[float]) -> str:
    """The axis that slices lie across; nothing where voxels are about cubes, or there is one slice."""
    _, second, coarsest = sorted(spacing_mm)
    axis = list(spacing_mm).index(coarsest)
    return "xyz"[axis] if coarsest >= COARSE * second and shape[axis] > 1 else ""


def _ends(rows: Sequence[tuple[Any, Any, Any]]) -> tuple[Any, Any]:
    """The least and the most of each column."""
    columns = [*zip(*rows)]
    return tuple(map(min, columns)), tuple(map(max, columns))


def _modalities(cases: Sequence[CaseFacts]) -> tuple[tuple[str, ...], ...]:
    """Of each file of a case, those that all cases together have; none where some case does not say."""
    if not all(case.modalities and all(case.modalities) for case in cases):
        return ()
    return tuple(tuple(sorted(set(one))) for one in zip(*(case.modalities for case in cases)))


def _profiles(cases: Sequence[Sequence[Profile]]) -> tuple[tuple[Profile, Profile], ...]:
    """The least and the most of each number of each channel, of the cases that have them."""
    ends = []
    for channel in zip(*cases):
        columns = [*zip(*(one for one in channel if one))]
        ends.append((tuple(map(min, columns)), tuple(map(max, columns))))
    return tuple(ends) if all(map(len, cases)) else ()


def _values(cases: Sequence[CaseFacts]) -> tuple[tuple[float, float], ...]:
    if not all(case.intensities for case in cases):
        return ()
    channels = zip(*(case.intensities for case in cases))
    return tuple((min(low for low, _ in one), max(high for _, high in one)) for one in channels)
