"""Plans for a time per scan, on a machine whose costs follow a law."""

import re
from itertools import pairwise
from math import prod

import pytest
import torch

from medfuse.core.errors import MedfuseError
from medfuse.core.reporter import Reporter
from medfuse.data.fingerprint import CaseFacts, Fingerprint
from medfuse.data.plan import DataPlan
from medfuse.planning import bench
from medfuse.planning.planner import Clock, Planner
from medfuse.planning.prices import Prices
from medfuse.planning.scans import Around
from medfuse.planning.timed import OVERLAPS, _Cut, plan_within
from medfuse.train.cost import StepCost

SHAPES = [(240, 200, 90), (256, 256, 100), (300, 280, 120)]
VOXELS = prod(SHAPES[1])


class Machine:
    """A window costs in proportion to its voxels and channels, and 1 ms; reading by the grid's voxels."""

    def __init__(self, *, rate=2e-8, fixed=1e-3, reading=0.2):
        self.rate, self.fixed, self.reading = rate, fixed, reading
        self.windows, self.arounds = [], []

    def window(self, bench, width, patch_size):
        self.windows.append((bench.dimensions, width, tuple(patch_size)))
        return self.fixed + self.rate * width * prod(patch_size)

    def around(self, bench, patch_size, overlap):
        self.arounds.append(bench.plan.spacing_mm)
        return Around(self.reading * (1 + 1 / prod(bench.plan.spacing_mm)), VOXELS)


@pytest.fixture(autouse=True)
def steps(monkeypatch):
    def measure(self, width, patch_size, batch):
        work = width * batch * prod(patch_size)
        return StepCost(1e-8 * work, 40 * work)

    monkeypatch.setattr(bench.Bench, "measure", measure)
    monkeypatch.setattr(bench.Bench, "choose", lambda *_: None)


def planner(*, minutes=30.0, wanted=None, count=1, shapes=SHAPES, ml=500.0):
    cases = tuple(
        CaseFacts(f"c{n}", shape, (1.0, 1.0, 2.0), {"background": 1e4, "organ": ml}, {})
        for n, shape in enumerate(shapes)
    )
    labels, reasons = {"background": 0, "organ": 1}, {"spacing_mm": "the median"}
    plan = DataPlan((1.0, 1.0, 2.0), (8, 8, 8), 2, ("MR",), (), labels, reasons)
    clock = Clock(minutes, 1e12)  # which has not begun yet, so that nothing is short of time
    device = torch.device("cpu")
    return Planner(
        Fingerprint(cases, ()), plan, device, 8 * 2**30, clock, Reporter(quiet=True), wanted, count=count
    )


def within(limit, machine=None, **how):
    plans = planner(**how)
    return plan_within(limit, plans.candidates(), plans, machine or Machine())


def unlimited(**how):
    return within(1e6, **how).plans[0].scan.median


@pytest.mark.parametrize("share", [0.9, 0.6])
@pytest.mark.parametrize("wanted", [None, "3", "2", "2.5"])
@pytest.mark.parametrize("minutes", [5.0, 600.0, None])
def test_every_plan_keeps_to_the_limit(share, wanted, minutes):
    how = {"wanted": wanted, "minutes": minutes}
    whole = within(1e6, **how).plans[0].scan
    limit = whole.around + share * whole.windows
    found = within(limit, **how)
    assert found.binds
    assert found.plans
    assert all(
        plan.scan.median <= limit < other.scan.median for plan in found.plans for other in found.beyond
    )
    if wanted:
        assert {plan.dimensions for plan in found.plans} == {wanted}


@pytest.mark.parametrize("wanted", ["3", "2"])
def test_what_is_foretold_is_what_the_machine_takes_where_it_follows_the_law(wanted):
    machine = Machine(fixed=0.0)
    limit = 0.4 * unlimited(wanted=wanted)
    for plan in within(limit, machine, wanted=wanted).plans:
        from medfuse.planning.scans import scan_seconds

        size = plan.size
        window = machine.window(plan.bench, size.width, size.patch_size)
        around = machine.around(plan.bench, size.patch_size, 0.5)
        cases = planner().fingerprint.cases
        patch = plan.bench.image(size.patch_size).patch_size
        real = scan_seconds(cases, plan.plan.spacing_mm, patch, plan.overlap, window, around)
        assert plan.scan == real


def test_a_limit_that_everything_keeps_to_changes_no_plan():
    plans = planner()
    plain = plans.candidates()
    found = plan_within(1e6, plain, plans, Machine())
    assert not found.binds
    assert [(p.size, p.plan, p.overlap) for p in found.plans] == [(p.size, p.plan, p.overlap) for p in plain]


def test_the_same_machine_makes_the_same_plans():
    limit = unlimited() / 3
    one, two = within(limit), within(limit)
    assert [str(plan) for plan in one.all] == [str(plan) for plan in two.all]


def test_less_time_never_makes_the_likeliest_plan_slower():
    whole = unlimited(wanted="3")
    found = [within(share * whole, wanted="3").plans[0].scan.median for share in (0.8, 0.6, 0.4, 0.2)]
    assert all(a >= b for a, b in pairwise(found))


@pytest.mark.parametrize("fixed", [0.0, 0.05])
def test_foretold_seconds_fall_with_coarser_voxels_fewer_channels_and_less_overlap(fixed):
    plans = planner(wanted="3")
    (base, *_) = plans.candidates()
    cut = _Cut(1.0, base, plans, Prices(plans.fingerprint, Machine(fixed=fixed)))
    cut.measure_coarsest()
    patch = base.size.patch_size
    overlaps = [cut.form(base.size.grid, base.size.width, patch, o).scan.median for o in OVERLAPS]
    widths = [cut.form(base.size.grid, w, patch, 0.5).scan.median for w in cut.widths()]
    grids = [cut.form(grid, base.size.width, patch, 0.5).scan.median for grid in cut.grids()]
    for found in (overlaps, widths, grids):
        assert len(found) > 1
        assert all(a >= b for a, b in pairwise(found))


@pytest.mark.parametrize("reading", [0.0, 5.0])
def test_where_nothing_keeps_to_it_the_fastest_is_told_and_that_much_is_enough(reading):
    with pytest.raises(MedfuseError) as caught:
        within(1e-3, Machine(reading=reading), wanted="3")
    (line,) = caught.value.lines
    assert "--seconds-per-case 0.001: the fastest plan takes about " in line
    assert "to read and write it" in line
    enough = float(line.split("give ")[1].split(" ")[0])
    assert within(enough, Machine(reading=reading), wanted="3").plans
    with pytest.raises(MedfuseError):
        within(0.5 * enough, Machine(reading=reading), wanted="3")


def test_a_pause_of_the_machine_makes_no_wider_network_seem_faster():
    class Pausing(Machine):
        def window(self, bench, width, patch_size):
            return super().window(bench, width, patch_size) * (20 if width == 8 else 1)

    plans = planner(wanted="3", minutes=None)
    (base, *_) = plans.candidates()
    cut = _Cut(1.0, base, plans, Prices(plans.fingerprint, Pausing()))
    found = [cut.form(base.size.grid, w, base.size.patch_size, 0.5).scan.median for w in cut.widths()]
    assert all(a >= b for a, b in pairwise(found))


def test_small_scans_of_small_structures_are_cut_by_what_is_left_to_cut():
    shapes = [(40, 56, 40), (36, 50, 36), (38, 52, 34)]
    whole = unlimited(shapes=shapes, ml=3.0)
    found = within(0.8 * whole, shapes=shapes, ml=3.0)
    assert found.plans[0].scan.median <= 0.8 * whole


def test_in_a_hurry_less_is_measured_and_plans_still_keep_to_the_limit(monkeypatch):
    calm, hurried = Machine(), Machine()
    limit = 0.2 * unlimited()
    within(limit, calm)
    monkeypatch.setattr(Clock, "hurried", lambda self: True)
    found = within(limit, hurried)
    assert all(plan.scan.median <= limit for plan in found.plans)
    assert found.plans
    assert len(hurried.arounds) < len(calm.arounds)
    assert len(hurried.windows) < len(calm.windows)


def test_a_clock_is_in_a_hurry_when_trials_would_have_less_than_half_of_their_time(monkeypatch):
    clock = Clock(10.0, 0.0)
    for spent, hurried in ((0, False), (60, False), (65, True), (600, True)):
        monkeypatch.setattr(Clock, "spent", lambda self, spent=spent: float(spent))
        assert clock.hurried() == hurried
    assert not Clock(None, 0.0).hurried()


def test_what_is_cut_says_that_a_scans_time_cut_it():
    found = within(0.1 * unlimited(wanted="3"), wanted="3")
    base, cut = found.beyond[0], found.plans
    narrower = [plan for plan in cut if plan.size.width < base.size.width]
    smaller = [plan for plan in cut if prod(plan.size.patch_size) < prod(base.size.patch_size)]
    coarser = [plan for plan in cut if plan.size.grid != base.size.grid]
    assert narrower
    assert smaller
    assert coarser
    assert all("what a scan has time for" in plan.size.width_reason for plan in narrower)
    assert all(re.search("covers|the time of a scan", plan.size.patch_reason) for plan in smaller)
    assert all("s a scan" in plan.plan.reasons["spacing_mm"] for plan in coarser)


def test_so_many_plans_are_thought_of_as_are_to_be_written():
    whole = unlimited(wanted="3")
    assert len(within(0.4 * whole, wanted="3", count=3).plans) >= 2
