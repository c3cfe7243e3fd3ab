"""Seconds of scans with any network of a kind, foretold from a few windows and scans that are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Protocol

from medfuse.infer.settings import USUAL_OVERLAP
from medfuse.planning.bench import Bench, Dimensions
from medfuse.planning.candidates import Candidate
from medfuse.planning.scans import Around, ScanSeconds, scan_seconds
from medfuse.planning.sizing import Grid

if TYPE_CHECKING:
    from medfuse.data.fingerprint import Fingerprint

MEASURED = {2: 192**2, 3: 48**3}
"""Voxels of the windows from whose time that of others is foretold."""


class Measures(Protocol):
    """What is measured of inference; see Meter."""

    def window(self, bench: Bench, width: int, patch_size: Sequence[int]) -> float: ...

    def around(self, bench: Bench, patch_size: Sequence[int], overlap: float) -> Around: ...


@dataclass
class Prices:
    """Seconds of scans, by what was measured: windows by kind and channels, what is around them by voxels.

    A window's time goes with its voxels, and no network is dearer than a wider one was found to be. What is
    around goes with the grid, from where it was measured down. `hurried` tells whether there is no time left
    to measure more of it than that takes.
    """

    fingerprint: Fingerprint
    measures: Measures
    hurried: Callable[[], bool] = lambda: False
    _windows: dict[tuple[Dimensions, int], tuple[int, float]] = field(default_factory=dict)
    _exact: dict[tuple[Dimensions, Grid, int, tuple[int, ...]], float] = field(default_factory=dict)
    _around: dict[tuple[int, Grid], Around] = field(default_factory=dict)

    def exact(self, candidate: Candidate, limit: float) -> ScanSeconds:
        """Of a plan: measured where it is not far beyond the limit, as measuring takes as long."""
        size = candidate.size
        scan = self.scan(candidate, size.grid, size.width, size.patch_size, candidate.overlap)
        if scan.median > 2 * limit:
            return scan
        self.measure(candidate)
        return self.exact_scan(candidate, candidate.overlap)

    def measure(self, candidate: Candidate) -> None:
        """Measure a window of its network, and what is around its windows."""
        size, bench = candidate.size, candidate.bench
        key = (candidate.dimensions, size.grid, size.width, size.patch_size)
        if key not in self._exact:
            self._exact[key] = self.measures.window(bench, size.width, size.patch_size)
            known = candidate.dimensions, size.width
            voxels, _ = self._windows.get(known, (0, 0.0))
            if prod(size.patch_size) >= voxels:
                self._windows[known] = prod(size.patch_size), self._exact[key]
        if not (self.hurried() and len(self._known(bench.dims)) > 1):
            self.measure_around(bench, size.grid, size.patch_size)

    def measure_around(self, bench: Bench, grid: Grid, patch: tuple[int, ...]) -> None:
        """Measure what is around windows on a grid, which `bench` is on, where that is not known yet."""
        if (bench.dims, grid) not in self._around:
            self._around[bench.dims, grid] = self.measures.around(bench, patch, USUAL_OVERLAP)

    def exact_scan(self, candidate: Candidate, overlap: float) -> ScanSeconds:
        """Of a plan that was measured."""
        size = candidate.size
        window = self._exact[candidate.dimensions, size.grid, size.width, size.patch_size]
        around = self._around.get((candidate.bench.dims, size.grid)) or self._around_on(candidate, size.grid)
        return self._scan(candidate, size.grid, size.patch_size, overlap, window, around)

    def scan(
        self, base: Candidate, grid: Grid, width: int, patch: tuple[int, ...], overlap: float
    ) -> ScanSeconds:
        """Foretold of another grid, width, window and overlap than a plan has."""
        window = prod(patch) * self._rate(base, width)
        return self._scan(base, grid, patch, overlap, window, self._around_on(base, grid))

    def _scan(
        self,
        base: Candidate,
        grid: Grid,
        patch: tuple[int, ...],
        overlap: float,
        window: float,
        around: Around,
    ) -> ScanSeconds:
        size = base.bench.image(patch).patch_size
        return scan_seconds(self.fingerprint.cases, grid.spacing_mm, size, overlap, window, around)

    def _rate(self, base: Candidate, width: int) -> float:
        """Seconds of a window for each of its voxels."""
        for known in dict.fromkeys((base.size.width, width)):
            self._probe(base, known)
        wider = [w for kind, w in self._windows if kind == base.dimensions and w >= width]
        return min(seconds / voxels for voxels, seconds in (self._windows[base.dimensions, w] for w in wider))

    def _probe(self, base: Candidate, width: int) -> None:
        """Measure a window of a few voxels, where nothing is known of the width yet."""
        key = base.dimensions, width
        if key not in self._windows:
            dims = base.bench.dims
            patch = base.size.grid.patch(dims, min(MEASURED[dims], prod(base.size.patch_size)))
            self._windows[key] = prod(patch), self.measures.window(base.bench, width, patch)

    def _around_on(self, base: Candidate, grid: Grid) -> Around:
        """Measured, or foretold from finer and coarser grids: never more than on a finer one."""
        dims, own, voxels = base.bench.dims, base.size.grid, prod(grid.shape)
        if not self._known(dims):
            self.measure_around(base.bench, own, base.size.patch_size)
        known = self._known(dims)
        file = next(iter(known.values())).voxels
        points = _rising({n: around.seconds for n, around in known.items()})
        return Around(_between(points, voxels), file)

    def _known(self, dims: int) -> dict[int, Around]:
        """What was measured around the windows of such networks, by the voxels of the grid."""
        return {prod(grid.shape): around for (kind, grid), around in self._around.items() if kind == dims}


def _rising(known: Mapping[int, float]) -> list[tuple[int, float]]:
    """Points in order, none above a later one: pauses of the machine only make things look dearer."""
    found: list[tuple[int, float]] = []
    least = float("inf")
    for at in sorted(known, reverse=True):
        least = min(least, known[at])
        found.append((at, least))
    return found[::-1]


def _between(points: Sequence[tuple[int, float]], at: int) -> float:
    """On the line between neighbours; before the first as there, beyond the last in proportion."""
    (first, least), (last, most) = points[0], points[-1]
    if at <= first:
        return least
    if at >= last:
        return most * at / last
    for (a, low), (b, high) in pairwise(points):
        if at <= b:
            return low + (high - low) * (at - a) / (b - a)
    raise AssertionError("it lies between two of them")
