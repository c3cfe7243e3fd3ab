"""What the images were like that a plan was made from: by it others are known to be of another kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medfuse.data.fingerprint import CaseFacts, Fingerprint

Spacing = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Seen:
    """The least and the most of all cases: spacing in mm and shape along each axis (RAS+), and the values of
    each channel (none where they were not measured)."""

    spacing_mm: tuple[Spacing, Spacing]
    shape: tuple[Shape, Shape]
    values: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, fingerprint: Fingerprint) -> Seen:
        cases = fingerprint.cases
        return cls(
            _ends([case.spacing_mm for case in cases]),
            _ends([case.shape for case in cases]),
            _values(cases),
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Seen:
        spacing, shape = ([tuple(end) for end in data[name]] for name in ("spacing_mm", "shape"))
        values = tuple((low, high) for low, high in data["values"])
        return cls((spacing[0], spacing[1]), (shape[0], shape[1]), values)


def _ends(rows: Sequence[tuple[Any, Any, Any]]) -> tuple[Any, Any]:
    """The least and the most of each column."""
    columns = [*zip(*rows)]
    return tuple(map(min, columns)), tuple(map(max, columns))


def _values(cases: Sequence[CaseFacts]) -> tuple[tuple[float, float], ...]:
    if not all(case.intensities for case in cases):
        return ()
    channels = zip(*(case.intensities for case in cases))
    return tuple((min(low for low, _ in one), max(high for _, high in one)) for one in channels)
