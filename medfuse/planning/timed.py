"""Plans that keep to a time per scan: coarser voxels, less overlap, smaller windows, fewer channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import log, prod
from typing import TYPE_CHECKING

from medfuse.core.errors import MedfuseError, ShapeError
from medfuse.core.text import duration
from medfuse.data.plan import patch_reason
from medfuse.planning.candidates import Candidate, grids
from medfuse.planning.prices import Measures, Prices
from medfuse.planning.sizing import PROBES, WIDTHS, Grid, Limits, Size, size_network

if TYPE_CHECKING:
    from medfuse.planning.bench import Dimensions
    from medfuse.planning.planner import Planner
    from medfuse.planning.scans import ScanSeconds

OVERLAPS = (0.5, 0.4, 0.3, 0.2)
"""Of windows, from the usual one down; less is told by seams."""
ACROSS, ROWS = 5, 16
"""Voxels that the usual smallest structure, and an axis, keep where time is short; trials tell the cost."""
EACH, MOST = 3, 4
"""Plans within the time of one kind of network, and of all, that are thought of."""
MINUTES_FOR_TWO = 15
"""From which on two plans beyond the limit are tried beside those within it."""
ROUNDS = 3
"""Times that a plan is measured and given less."""
LESS = {"spacing": 1.0, "width": 0.5, "window": 0.3, "overlap": 0.5}
"""What e-fold coarser voxels, fewer channels and smaller windows, and a whole overlap, are taken to lose: in
that order plans are tried."""
ANOTHER_KIND = 0.5
"""The same of a network of other axes than the likeliest."""


@dataclass(frozen=True)
class Form:
    """A network's inference: its voxels, channels, window and overlap, and what a scan takes with them."""

    grid: Grid
    width: int
    patch_size: tuple[int, ...]
    overlap: float
    scan: ScanSeconds


@dataclass(frozen=True)
class Within:
    """Plans that keep to a limit in seconds, the likeliest first, and those of `init` that do not.

    `uncut`: those that keep to it as they are.
    """

    limit: float
    plans: tuple[Candidate, ...]
    beyond: tuple[Candidate, ...] = ()
    uncut: tuple[Candidate, ...] = ()

    @property
    def free(self) -> list[int]:
        """The numbers of those that there are without the limit."""
        return [number for number, plan in enumerate(self.all) if plan in (*self.uncut, *self.beyond)]

    @property
    def binds(self) -> bool:
        return bool(self.beyond)

    @property
    def all(self) -> list[Candidate]:
        return [*self.plans, *self.beyond]


def plan_within(
    limit: float, candidates: Sequence[Candidate], planner: Planner, measures: Measures
) -> Within:
    """Of the plans that there are without a limit those that keep to it, and others, cut until they do.

    Raises MedfuseError where none does, with what is the fastest.
    """
    hurried = planner.clock.hurried
    prices = Prices(planner.fingerprint, measures, hurried)
    fit: list[tuple[float, Candidate]] = []
    beyond: list[Candidate] = []
    kinds: dict[Dimensions, Candidate] = {}
    for candidate in candidates:
        scan = prices.exact(candidate, limit)
        planner.reporter.say(f"  a scan takes about {duration(scan.median)}: {candidate}")
        priced = replace(candidate, scan=scan)
        first = candidate.dimensions not in kinds
        kinds.setdefault(candidate.dimensions, priced)
        if scan.median <= limit:
            fit.append((ANOTHER_KIND * (len(kinds) - 1) + (0.0 if first else 0.1), priced))
        else:
            beyond.append(priced)
    if not beyond:
        return Within(limit, tuple(plan for _, plan in fit))
    uncut = tuple(plan for _, plan in fit)
    cuts = []
    for number, base in enumerate(kinds.values()):
        if (base.scan and base.scan.median <= limit) or (fit and hurried()):
            continue
        cut = _Cut(limit, base, planner, prices)
        cut.measure_coarsest()
        found = cut.plans()
        fit += [(ANOTHER_KIND * number + less, plan) for less, plan in found]
        cuts.append(cut)
    if not fit:
        fit = [(0.0, _fastest(limit, [plan for cut in cuts if (plan := cut.fastest())]))]
    fit.sort(key=lambda one: one[0])
    compared = 2 if (planner.clock.minutes or 0) >= MINUTES_FOR_TWO else 1
    plans = [plan for _, plan in fit[: max(MOST, planner.count)]]
    return Within(limit, tuple(plans), tuple(beyond[:compared]), uncut)


def _fastest(limit: float, plans: Sequence[Candidate]) -> Candidate:
    """Of plans that give up all that they may. Raises MedfuseError where even that is too slow."""
    scans = {number: plan.scan for number, plan in enumerate(plans) if plan.scan}
    if not scans:
        raise MedfuseError(f"--seconds-per-case {limit:g}: no plan is so fast whose step fits the memory")
    best = min(scans, key=lambda number: scans[number].median)
    if scans[best].median > limit:
        raise _too_slow(limit, scans[best], plans[best])
    return plans[best]


def _too_slow(limit: float, scan: ScanSeconds, plan: Candidate) -> MedfuseError:
    enough = float(f"{1.05 * scan.median:.2g}")
    enough = enough if enough > scan.median else float(f"{1.2 * scan.median:.2g}")
    return MedfuseError(
        f"--seconds-per-case {limit:g}: the fastest plan takes about {duration(scan.median)} for the median "
        f"scan of this dataset on this machine ({plan}): {duration(scan.around)} to read and write it, and "
        f"{duration(scan.windows)} in the network; give {enough:g} or more"
    )


@dataclass
class _Cut:
    """One kind of network, cut until a scan keeps to the limit."""

    limit: float
    base: Candidate
    planner: Planner
    prices: Prices

    def measure_coarsest(self) -> None:
        """What is around windows on the coarsest voxels, from which other grids are foretold."""
        grid = self.grids()[-1]
        bench = self.base.bench.on(grid.spacing_mm, "")
        self.prices.measure_around(bench, grid, self.windows(grid)[0])

    def plans(self) -> list[tuple[float, Candidate]]:
        """Up to EACH, each with how much it gives up."""
        found: list[tuple[float, Candidate]] = []
        for form in _spread([*self.forms()], EACH):
            plan = self.sized(form.grid)
            if plan is not None and str(plan) not in {str(other) for _, other in found}:
                found.append((_less(plan, self.base), plan))
        return found

    def forms(self) -> Iterator[Form]:
        """For each spacing, from the finest on, what gives up least there; until nothing more is gained."""
        for grid in self.grids():
            form = next(self.at(grid), None)
            if form is not None:
                yield form
                if form.width == self.base.size.width and form.overlap == self.base.overlap:
                    return

    def grids(self) -> list[Grid]:
        """The plan's own and coarser ones."""
        own, planner = self.base.size.grid, self.planner
        dims = self.base.bench.dims
        more = grids(planner.fingerprint, planner.plan, dims, across=ACROSS, rows=ROWS)
        return [own, *(grid for grid in more if prod(grid.shape) < prod(own.shape) and self.windows(grid))]

    def at(self, grid: Grid) -> Iterator[Form]:
        """What keeps to the limit on these voxels, as far as is known: the widest network first, in windows
        as large as the plan's before smaller ones, each with the most overlap."""
        for width in self.widths():
            for patch in self.windows(grid):
                forms = (self.form(grid, width, patch, overlap) for overlap in OVERLAPS)
                if fits := next((form for form in forms if form.scan.median <= self.limit), None):
                    yield fits

    def form(self, grid: Grid, width: int, patch: tuple[int, ...], overlap: float) -> Form:
        scan = self.prices.scan(self.base, grid, width, patch, overlap)
        return Form(grid, width, patch, overlap, scan)

    def widths(self) -> list[int]:
        """From that of the plan down."""
        return [width for width in WIDTHS if width <= self.base.size.width] or [self.base.size.width]

    def windows(self, grid: Grid) -> list[tuple[int, ...]]:
        """As many voxels as the plan's, and half of them."""
        dims, most = self.base.bench.dims, prod(self.base.size.patch_size)
        sizes = [grid.patch(dims, most)]
        if most / 2 >= PROBES[dims][0]:
            sizes.append(grid.patch(dims, most / 2))
        return [patch for patch in dict.fromkeys(sizes) if self._is_possible(grid, patch)]

    def _is_possible(self, grid: Grid, patch: tuple[int, ...]) -> bool:
        try:
            self.base.bench.on(grid.spacing_mm, "").encoder(WIDTHS[-1], patch)
        except ShapeError:
            return False
        return True

    def fastest(self) -> Candidate | None:
        """What is the fastest where all is given up that may be, measured; None where no step of it fits."""
        width, least = self.widths()[-1], OVERLAPS[-1]
        forms = [self.form(grid, width, w, least) for grid in self.grids() for w in self.windows(grid)]
        return self._measured(min(forms, key=lambda form: form.scan.median))

    def sized(self, grid: Grid) -> Candidate | None:
        """The plan on a grid, its training step and its scan measured; cut further where that is too slow."""
        for form in islice(self.at(grid), ROUNDS):
            plan = self._measured(form)
            for overlap in (one for one in OVERLAPS if plan and one <= form.overlap):
                assert plan is not None
                made = replace(plan, overlap=overlap, scan=self.prices.exact_scan(plan, overlap))
                if made.scan and made.scan.median <= self.limit:
                    self.planner.reporter.say(f"  within the time: {made}")
                    return made
        return None

    def _measured(self, form: Form) -> Candidate | None:
        """The plan of a form, its step and its scan measured; None where no step of it fits the memory."""
        try:
            plan = self._planned(form)
        except MedfuseError as error:
            self.planner.reporter.say(f"  left out: {error.lines[0]}")
            return None
        self.prices.measure(plan)
        return replace(plan, scan=self.prices.exact_scan(plan, plan.overlap))

    def _planned(self, form: Form) -> Candidate:
        planner, base, minutes = self.planner, self.base, self.planner.clock.minutes
        coarser = form.grid != base.size.grid
        why = base.plan.reasons["spacing_mm"] + (f"; coarser, for {self.limit:g} s a scan" if coarser else "")
        bench = base.bench.on(form.grid.spacing_mm, why)
        size = size_network(
            [form.grid],
            len(planner.fingerprint.cases),
            bench.measure,
            Limits(planner.memory, 60 * minutes if minutes else None, 0.0 if minutes else None),
            dims=bench.dims,
            widths=[form.width],
            most_voxels=prod(form.patch_size),
            say=planner.reporter.say,
        )
        return replace(base, bench=bench, size=self._told(size), overlap=form.overlap)

    def _told(self, size: Size) -> Size:
        """With the reasons that a limit gives."""
        if prod(size.patch_size) < prod(self.base.size.patch_size):
            why = patch_reason(size.patch_size, size.grid.shape, "what the time of a scan allows")
            size = replace(size, patch_reason=why)
        if size.width == self.base.size.width:
            return replace(size, width_reason=self.base.size.width_reason)
        wider = self.base.size.width
        why = f"what a scan has time for in {self.limit:g} s; {wider} without that limit"
        return replace(size, width_reason=why)


def _less(plan: Candidate, base: Candidate) -> float:
    """How much a plan gives up of what it is cut from."""
    own, its = plan.size, base.size
    seen, before = (
        prod(n * mm for n, mm in zip(size.patch_size, size.grid.spacing_mm)) for size in (own, its)
    )
    return (
        LESS["spacing"] * log(own.grid.times_coarser(its.grid))
        + LESS["width"] * log(its.width / own.width)
        + LESS["window"] * max(0.0, log(before / seen)) / len(own.patch_size)
        + LESS["overlap"] * (base.overlap - plan.overlap)
    )


def _spread(forms: Sequence[Form], most: int) -> list[Form]:
    """The first, the last and what lies evenly between."""
    if len(forms) <= most:
        return [*forms]
    return [forms[round(number * (len(forms) - 1) / (most - 1))] for number in range(most)]
