"""Where voxels lie in the patient, and how to turn an array to RAS+ and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Scalar = TypeVar("Scalar", bound=np.generic)


_BETWEEN_UNITS = (1e-6, 1e-3, 1e3, 1e6)
"""How metres, millimetres and micrometres differ."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of a volume as its file has it: shape in voxels, affine from index (i, j, k) to RAS+ mm.

    `spaced`: whether the file says how large a voxel is; a picture may not, and then 1 mm is assumed.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    spaced: bool = True

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        return _three(np.linalg.norm(self.affine[:3, :3], axis=0))

    def with_spacing(self, mm: tuple[float, float] | None) -> Geometry:
        """The same with pixels (i, j) of `mm`, where its file does not say how large they are."""
        if self.spaced or mm is None:
            return self
        return Geometry(self.shape, self.affine @ np.diag([*mm, 1.0, 1.0]))

    @property
    def voxel_ml(self) -> float:
        """The volume of a voxel in millilitres."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def origin(self) -> tuple[float, float, float]:
        return _three(self.affine[:3, 3])

    @property
    def direction(self) -> npt.NDArray[np.float64]:
        """Unit vectors of the axes, as columns."""
        return self.affine[:3, :3] / np.asarray(self.spacing_mm)

    @property
    def shear_degrees(self) -> float:
        """By how much two axes, at most, are not perpendicular."""
        cosines = np.abs(self.direction.T @ self.direction)[np.triu_indices(3, 1)]
        return float(np.degrees(np.arcsin(min(1.0, cosines.max()))))

    @property
    def oblique_degrees(self) -> float:
        """By how much an axis, at most, is turned away from the patient's axis that it is nearest to."""
        cosines = np.abs(self.direction[range(3), self.turn.axes])
        return float(np.degrees(np.arccos(min(1.0, float(cosines.min())))))

    @cached_property
    def turn(self) -> Turn:
        """How the file's axes become RAS+."""
        return Turn.to_ras(self.affine)

    @property
    def ras_shape(self) -> tuple[int, int, int]:
        x, y, z = (self.shape[a] for a in self.turn.axes)
        return x, y, z

    @property
    def ras_spacing_mm(self) -> tuple[float, float, float]:
        x, y, z = (self.spacing_mm[a] for a in self.turn.axes)
        return x, y, z

    def differences(self, other: Geometry, tolerance: float = 1e-3) -> list[str]:
        """In words, how `other` differs: shape; spacing and origin by more than `tolerance` mm; direction
        by more than `tolerance` per mm. Empty where the two are the same grid, as far as both say it.
        """
        found = []
        if self.shape != other.shape:
            found.append(f"shape {other.shape} differs from {self.shape}")
        if not (self.spaced and other.spaced):
            return found
        for what in ("spacing_mm", "origin"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if not np.allclose(mine, theirs, rtol=0, atol=tolerance):
                found.append(f"{what.removesuffix('_mm')} {_brief(theirs)} differs from {_brief(mine)} mm")
        if not np.allclose(self.direction, other.direction, rtol=0, atol=tolerance):
            angle = np.degrees(np.arccos(np.clip((self.direction * other.direction).sum(0), -1, 1)))
            found.append(f"direction differs (axes are turned by {_brief(_three(angle))} degrees)")
        return found

    def remedy(self, other: Geometry, usual: str) -> str:
        """What to do where `other` differs: `usual`, unless one of the two headers names a wrong unit."""
        axes = [n > 1 for n in self.shape]  # a slice that has no spacing of its own is 1 mm thick
        ratios = (np.asarray(other.spacing_mm) / self.spacing_mm)[axes]
        scaled = any(np.allclose(ratios, factor, rtol=1e-3, atol=0) for factor in _BETWEEN_UNITS)
        if not (scaled and ratios.size and self.spaced and other.spaced):
            return usual
        return "the unit in one of the two headers is wrong (`xyzt_units` in NIfTI); mend it"


@dataclass(frozen=True)
class Turn:
    """A permutation and flips of the spatial axes. Exact in both directions."""

    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    @classmethod
    def to_ras(cls, affine: npt.NDArray[np.float64]) -> Turn:
        """The turn that brings each array axis to the patient axis that it is nearest to.

        The assignment maximises the summed cosines, so that an oblique volume gets three distinct axes.
        """
        from itertools import permutations

        cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        axes = max(permutations(range(3)), key=lambda p: sum(abs(cosines[r, p[r]]) for r in range(3)))
        x, y, z = (bool(cosines[r, axes[r]] < 0) for r in range(3))
        return cls((axes[0], axes[1], axes[2]), (x, y, z))

    def apply(self, array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """A view of (*any, i, j, k) as (*any, x, y, z)."""
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + a for a in self.axes))
        return turned[(..., *self._flips)]

    def undo(self, array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """A view of (*any, x, y, z) as (*any, i, j, k)."""
        lead = array.ndim - 3
        back = array[(..., *self._flips)]
        return back.transpose(*range(lead), *(lead + self.axes.index(a) for a in range(3)))

    def undo_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape (i, j, k) of `undo` of an array of `shape` (x, y, z)."""
        i, j, k = (shape[self.axes.index(a)] for a in range(3))
        return i, j, k

    @property
    def _flips(self) -> tuple[slice, slice, slice]:
        x, y, z = (slice(None, None, -1) if f else slice(None) for f in self.flipped)
        return x, y, z


def _three(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _brief(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:.7g}" for v in values) + ")"
