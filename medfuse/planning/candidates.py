"""Plans that are worth a thought for a dataset, by rules with reasons: axes of the network and spacings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from math import ceil, pi, prod
from statistics import median
from typing import TYPE_CHECKING

from medfuse.core.labels import members
from medfuse.core.text import by, duration
from medfuse.data.plan import ANISOTROPIC
from medfuse.infer.settings import USUAL_OVERLAP
from medfuse.planning.bench import Bench, Dimensions
from medfuse.planning.sizing import TRAINING_SHARE, Grid, Size

if TYPE_CHECKING:
    from medfuse.data.fingerprint import Fingerprint
    from medfuse.data.plan import DataPlan
    from medfuse.planning.scans import ScanSeconds

COARSER = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
"""By how much a spacing may be coarsened before a patch is cut."""
ACROSS = 10
"""Voxels that the usual smallest structure keeps across."""
ROWS = 32
"""Voxels that an axis keeps where it is coarsened."""
FEW_SLICES = 6
"""Where the shorter side of a slice has so many times the slices that there are, they are few."""


MILD, WIDE = (0.8, 1.25), (0.7, 1.4)
"""Smallest and largest factor of scaling: as usual, and where sizes vary for reasons that no header tells."""


def scaling(suspicions: Collection[str]) -> tuple[list[float], str]:
    """The range of scaling, and why, by what is suspicious about a dataset (see data.suspicions)."""
    if {"lost_spacing", "fields_of_view"} & {*suspicions}:
        return list(WIDE), "wide, as sizes vary for reasons that no header tells"
    return list(MILD), ""


@dataclass(frozen=True)
class Candidate:
    """A plan that is worth a thought: the network's axes, its size, and how patches are scaled.

    `reason`: why it has these axes. `overlap` of windows at inference. `scan`: what a scan takes, where that
    was asked for.
    """

    dimensions: Dimensions
    reason: str
    bench: Bench
    size: Size
    scaling: tuple[list[float], str] = (list(MILD), "")
    overlap: float = USUAL_OVERLAP
    scan: ScanSeconds | None = None

    @property
    def plan(self) -> DataPlan:
        return self.bench.plan

    def paced(self, seconds: float, a_step: float) -> Candidate:
        """The same, with the steps that fit so many seconds at this pace."""
        steps, cost = int(TRAINING_SHARE * seconds / a_step), replace(self.size.cost, pace=a_step)
        return replace(self, size=replace(self.size, steps=steps, cost=cost))

    def judging(self) -> float:
        """About the seconds of a look at the median case: a window takes a third of its part of a step."""
        size = self.size
        patch = (*self.bench.image(size.patch_size).patch_size, 1)[:3]
        step = 1 - self.overlap
        windows = prod(max(1, 1 + ceil((n - p) / max(step * p, 1))) for n, p in zip(size.grid.shape, patch))
        return windows * size.cost.seconds / size.batch_size / 3

    def __str__(self) -> str:
        size = self.size
        patch = by(self.bench.image(size.patch_size).patch_size)
        spacing = "×".join(f"{s:g}" for s in self.plan.spacing_mm)
        scan = f", overlap {self.overlap:g}, {duration(self.scan.median)} a scan" if self.scan else ""
        return (
            f"{self.dimensions}-D, {size.width} channels, {size.batch_size} patches of {patch} "
            f"voxels of {spacing} mm{scan}"
        )


def grids(
    fingerprint: Fingerprint, plan: DataPlan, dims: int, *, across: int = ACROSS, rows: int = ROWS
) -> tuple[Grid, ...]:
    """The planned spacing and coarser ones that still show every structure, from the finest on.

    Only axes that the network sees are coarsened, the finest of them first. `across`: voxels that the usual
    smallest structure keeps; `rows`: those that an axis keeps.
    """
    from medfuse.data.plan import median_shape

    coarsest = _coarsest(fingerprint, plan, across)
    found: dict[tuple[float, float, float], Grid] = {}
    for factor in COARSER:
        finest = factor * min(plan.spacing_mm[:dims])
        spacing = [round(max(s, finest), 4) if axis < dims else s for axis, s in enumerate(plan.spacing_mm)]
        x, y, z = spacing
        shape = median_shape(fingerprint, (x, y, z))
        coarsened = [axis for axis in range(3) if spacing[axis] > plan.spacing_mm[axis]]
        few = [axis for axis in coarsened if shape[axis] < rows]
        for axis in few:  # such as slices whose true distance a header does not tell
            spacing[axis] = plan.spacing_mm[axis]
        if factor > 1 and (len(few) == len(coarsened) or finest > coarsest):
            break
        x, y, z = spacing
        found.setdefault((x, y, z), Grid((x, y, z), median_shape(fingerprint, (x, y, z))))
    return tuple(found.values())


def _coarsest(fingerprint: Fingerprint, plan: DataPlan, across: int) -> float:
    """The spacing in mm at which the usual smallest structure, or a usual piece of it where it is many (such
    as lesions), is `across` voxels wide, as a ball."""
    sizes = []
    for name, value in plan.labels.items():
        pieces = [case.pieces_ml.get(name, case.volumes_ml.get(name, 0.0)) for case in fingerprint.cases]
        there = [piece for piece in pieces if piece > 0]
        if there and members(value) != (0,):
            sizes.append((6000 * median(there) / pi) ** (1 / 3))
    return min(sizes) / across if sizes else float("inf")


def dimensions(grid: Grid) -> tuple[tuple[Dimensions, str], ...]:
    """The axes of networks to think of, the likeliest first, each with its reason."""
    x, y, z = grid.shape
    if min(x, y) == 1:
        return (("3", "slices do not lie along z, so a network of two axes would see lines"),)
    if z == 1:
        return (("2", "one slice each, so the network has two axes"),)
    apart = grid.spacing_mm[2] / max(grid.spacing_mm[:2])
    if z * FEW_SLICES <= min(x, y):
        few = f"{z} slices of {x}×{y} voxels: what is in a slice tells more than what is in the next"
    elif apart >= ANISOTROPIC:
        few = f"slices are {apart:.1f} times as far apart as voxels within one"
    elif thick := _thick(grid):
        cut = "planes across these slices cost less"
        return (("3", thick), ("2.5", f"{cut}; neighbours may help"), ("2", cut))
    else:
        even = "voxels are about as far apart along all axes"
        return (("3", even), ("2.5", "slices with their neighbours cost less"), ("2", "slices cost less"))
    return (
        ("2", few),
        ("2.5", f"{few}; neighbours may still help"),
        ("3", "all axes, in case they tell more"),
    )


def _thick(grid: Grid) -> str:
    """That slices are sagittal or coronal, as voxels tell that are long along x or y; else empty."""
    for axis in (0, 1):
        spacing, others = grid.spacing_mm[axis], [s for i, s in enumerate(grid.spacing_mm) if i != axis]
        if (thick := spacing / max(others)) >= ANISOTROPIC:
            apart = f"{thick:.1f} times as far apart as voxels within one"
            return f"slices are stacked along {'xy'[axis]}, {apart}"
    return ""
