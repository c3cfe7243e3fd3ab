"""Plans that keep to a time per scan: coarser voxels, less overlap, smaller windows, fewer channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from math import log, prod
from typing import TYPE_CHECKING, Any, Protocol

from medfuse.core.errors import MedfuseError, ShapeError
from medfuse.core.text import duration
from medfuse.infer.settings import USUAL_OVERLAP
from medfuse.planning.bench import Bench, Dimensions
from medfuse.planning.candidates import Candidate, grids
from medfuse.planning.loss import Loss, expected_loss
from medfuse.planning.scans import Around, ScanSeconds, scan_seconds
from medfuse.planning.sizing import PROBES, WIDTHS, Grid, Limits, Size, size_network

if TYPE_CHECKING:
    from medfuse.data.fingerprint import Fingerprint
    from medfuse.planning.planner import Planner
    from medfuse.planning.trials import Trials

OVERLAPS = (0.5, 0.4, 0.3, 0.2)
"""Of windows, from the usual one down; less is told by seams."""
ACROSS, ROWS = 5, 16
"""Voxels that the usual smallest structure, and an axis, keep where time is short; trials tell the cost."""
EACH, MOST = 3, 4
"""Plans within the time of one kind of network, and of all, that are thought of."""
MEASURED = {2: 192**2, 3: 48**3}
"""Voxels of the windows from whose time that of others is foretold."""
MINUTES_FOR_TWO = 15
"""From which on two plans beyond the limit are tried beside those within it."""
ROUNDS = 3
"""Times that a plan is measured and given less."""
LESS = {"spacing": 1.0, "width": 0.5, "window": 0.3, "overlap": 0.5}
"""What e-fold coarser voxels, fewer channels and smaller windows, and a whole overlap, are taken to lose: in
that order plans are tried."""
ANOTHER_KIND = 0.5
"""The same of a network of other axes than the likeliest."""


class Measures(Protocol):
    """What is measured of inference; see Meter."""

    def window(self, bench: Bench, width: int, patch_size: Sequence[int]) -> float: ...

    def around(self, bench: Bench, patch_size: Sequence[int], overlap: float) -> Around: ...


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
    prices = Prices(planner.fingerprint, measures)
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
        if base.scan and base.scan.median <= limit:
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


@dataclass
class Prices:
    """Seconds of scans, by what was measured: windows by kind and channels, what is around them by voxels.

    A window's time goes with its voxels, and no network is dearer than a wider one was found to be. What is
    around goes with the grid, from where it was measured down.
    """

    fingerprint: Fingerprint
    measures: Measures
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
        self.measure_around(bench, size.grid, size.patch_size)

    def measure_around(self, bench: Bench, grid: Grid, patch: tuple[int, ...]) -> None:
        """Measure what is around windows on a grid, which `bench` is on, where that is not known yet."""
        if (bench.dims, grid) not in self._around:
            self._around[bench.dims, grid] = self.measures.around(bench, patch, USUAL_OVERLAP)

    def exact_scan(self, candidate: Candidate, overlap: float) -> ScanSeconds:
        """Of a plan that was measured."""
        size = candidate.size
        window = self._exact[candidate.dimensions, size.grid, size.width, size.patch_size]
        around = self._around[candidate.bench.dims, size.grid]
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
        if dims not in {known for known, _ in self._around}:
            self.measure_around(base.bench, own, base.size.patch_size)
        known = {prod(one.shape): around for (kind, one), around in self._around.items() if kind == dims}
        file = next(iter(known.values())).voxels
        points = _rising({n: around.seconds for n, around in known.items()})
        return Around(_between(points, voxels), file)


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


@dataclass(frozen=True)
class Timing:
    """What is said of a plan's time, and of its Dice: lines, and the same as values."""

    lines: tuple[str, ...]
    values: dict[str, Any]


def timing(within: Within, number: int, trials: Trials, patient_of: Mapping[str, str]) -> Timing:
    """Of plan number `number` of those within."""
    plan = within.all[number]
    assert plan.scan is not None
    values: dict[str, Any] = {
        "limit": within.limit,
        "binds": within.binds,
        "median": plan.scan.median,
        "nine_in_ten": plan.scan.ninth,
        "largest": plan.scan.largest,
        "network": plan.scan.windows,
        "overlap": plan.overlap,
        "spacing_mm": plan.plan.spacing_mm,
    }
    lines = [about_scan(within, plan)]
    if within.binds:
        loss = expected_loss(trials, number, within.free, patient_of)
        values["loss"] = None if isinstance(loss, str) else loss.values()
        lines.append(about_loss(within, loss))
    return Timing(tuple(lines), values)


def about_scan(within: Within, plan: Candidate) -> str:
    """What a scan is expected to take with a plan, in a sentence or two."""
    scan, limit = plan.scan, within.limit
    assert scan is not None
    takes = (
        f"{duration(scan.median)} for the median scan ({duration(scan.windows)} in the network, "
        f"{duration(scan.around)} to read, resample and write), {duration(scan.largest)} for the largest, "
        "beyond what starting takes, on this machine"
    )
    if within.binds:
        return f"Planned for {limit:g} s a scan: about {takes}."
    return f"{limit:g} s a scan do not bind: it takes about {takes}."


def about_loss(within: Within, loss: Loss | str) -> str:
    """What a plan within a limit that binds is expected to cost of Dice, in a sentence or two."""
    if isinstance(loss, str):
        return f"{loss[0].upper()}{loss[1:]}."
    other = within.all[loss.against]
    if loss.interval is None:
        return "It is also the best of the plans that there are without the limit, as far as trials tell."
    found = loss.interval
    assert other.scan is not None
    judged = f"{found.cases} training case{'s' * (found.cases != 1)} kept apart"
    what = "cost" if found.value >= 0 else "gain"
    low, high = (found.low, found.high) if found.value >= 0 else (_minus(found.high), _minus(found.low))
    limits = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    level = "" if low is None else f"{100 * found.level:.3g} %, "
    return (
        f"Expected to {what} {abs(found.value):.3f} Dice{limits} ({level}{judged}) against the plan without "
        f"the limit ({other}), after short trainings of {loss.steps[0]:,} and {loss.steps[1]:,} steps; "
        "longer ones may tell more."
    )


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
