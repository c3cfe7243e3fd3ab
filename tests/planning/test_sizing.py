"""The choice of width, patch and batch, by costs that follow a law."""

import random
import re
from math import prod

import pytest

from medfuse.core.errors import MedfuseError
from medfuse.planning.sizing import (
    CHOICE_SHARE,
    ENOUGH_STEPS,
    TRAINING_SHARE,
    TURNS,
    WIDTHS,
    Grid,
    Limits,
    _Book,
    _probes,
    more_minutes,
    size_network,
)
from medfuse.train.cost import StepCost

CT, SMALL = (512, 512, 300), (36, 50, 36)
ISOTROPIC = (1.0, 1.0, 1.0)
MEASURING_SHARE = 0.06


class Machine:
    """Costs in proportion to voxels and width."""

    def __init__(self, *, seconds=1e-8, size=40.0, fixed=1e6):
        self.seconds, self.size, self.fixed = seconds, size, fixed
        self.asked = []

    def __call__(self, width, patch, batch):
        self.asked.append((width, patch, batch))
        work = width * batch * prod(patch)
        return StepCost(self.seconds * work, int(self.fixed + self.size * work))


def sized(shape, limits, machine=None, cases=100, **more):
    return size_network([Grid(ISOTROPIC, shape)], cases, machine or Machine(), limits, **more)


@pytest.mark.parametrize("gigabytes", [1, 8, 40])
def test_a_step_stays_within_the_memory_and_uses_most_of_it(gigabytes):
    found = sized(CT, Limits(gigabytes * 10**9))
    assert 0.4 * gigabytes * 10**9 < found.cost.bytes <= gigabytes * 10**9


def test_without_a_limit_of_time_the_network_is_nnunets():
    found = sized(CT, Limits(8 * 10**9))
    assert (found.width, found.batch_size, found.steps) == (32, 2, None)


def test_a_small_case_is_covered_and_the_batch_grows():
    found = sized(SMALL, Limits(8 * 10**9))
    assert found.patch_size == (40, 56, 40)
    assert found.batch_size > 2


@pytest.mark.parametrize("minutes", [10, 60, 600])
@pytest.mark.parametrize("shape", [SMALL, CT])
def test_enough_steps_fit_the_time(shape, minutes):
    found = sized(shape, Limits(8 * 10**9, 60 * minutes))
    assert found.steps >= 0.75 * ENOUGH_STEPS


def test_less_time_never_means_a_wider_network():
    widths = [sized(CT, Limits(8 * 10**9, 60 * minutes)).width for minutes in (1, 10, 30, 100, 1000)]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def test_a_narrower_network_says_what_the_wider_would_have_seen():
    found = sized(SMALL, Limits(8 * 10**9, 60))
    assert min(WIDTHS) < found.width < 32
    wider = min(width for width in WIDTHS if width > found.width)
    seen = re.search(rf"{wider} channels would see ([\d,]+)", found.width_reason)
    assert int(seen[1].replace(",", "")) < found.steps


def test_the_steps_are_those_of_the_measured_choice():
    limits = Limits(8 * 10**9, 1200)
    found = sized(CT, limits)
    assert found.steps == int(TRAINING_SHARE * 1200 / found.cost.seconds)


def test_the_choice_itself_is_measured():
    machine = Machine()
    found = sized(CT, Limits(8 * 10**9), machine)
    assert machine.asked[-1] == (found.width, found.patch_size, found.batch_size)


def test_a_cost_that_grows_faster_than_foretold_is_cut():
    class Steep(Machine):
        def __call__(self, width, patch, batch):
            work = width * batch * prod(patch)
            return StepCost(1e-8 * work, int(40 * work * (1 + (prod(patch) / 64**3) / 4)))

    assert sized(CT, Limits(4 * 10**9), Steep()).cost.bytes <= 4 * 10**9


def test_patches_a_step_are_given_up_before_resolution():
    fine, coarse = Grid(ISOTROPIC, (512, 512, 10)), Grid((2.0, 2.0, 1.0), (256, 256, 10))
    a_patch = 1e-8 * min(WIDTHS) * 512**2
    for patches, wanted in ((2.5, (fine, 2)), (5.0, (fine, 4)), (0.5, (coarse, 2))):
        limits = Limits(8 * 10**9, ENOUGH_STEPS * patches * a_patch / TRAINING_SHARE)
        found = size_network([fine, coarse], 100, Machine(), limits, dims=2)
        assert (found.grid, found.batch_size) == wanted
        assert found.steps >= 0.75 * ENOUGH_STEPS


@pytest.mark.parametrize("minutes", [3, 10, 60])
def test_a_pause_of_the_machine_is_not_taken_for_the_cost_of_a_step(minutes):
    class Pausing(Machine):
        """Slow once: where the choice is measured first."""

        def __call__(self, width, patch, batch):
            cost = super().__call__(width, patch, batch)
            paused = len(self.asked) == len(quiet.asked)
            return StepCost(cost.seconds * (40 if paused else 1), cost.bytes)

    quiet, limits = Machine(), Limits(8 * 10**9, 60 * minutes)
    wanted = sized(CT, limits, quiet)
    found = sized(CT, limits, Pausing())
    assert found.width == wanted.width
    assert found.batch_size * prod(found.patch_size) > 0.5 * wanted.batch_size * prod(wanted.patch_size)
    assert found.steps >= 0.75 * ENOUGH_STEPS


class Busy(Machine):
    """Noisy, paused now and then, and with a clock: measuring takes five steps and a second."""

    def __init__(self, seed, **law):
        super().__init__(**law)
        self.random, self.now = random.Random(seed), 0.0

    def __call__(self, width, patch, batch):
        cost = super().__call__(width, patch, batch)
        pause = 30 if self.random.random() < 0.2 else 1
        seconds = cost.seconds * self.random.uniform(1, 1.5) * pause
        self.last = 1 + 5 * seconds
        self.now += self.last
        return StepCost(seconds, cost.bytes)

    def clock(self):
        return self.now


def busily(shape, minutes, seed, **law):
    machine = Busy(seed, **law)
    limits = Limits(8 * 10**9, 60 * minutes, MEASURING_SHARE * 60 * minutes)
    return sized(shape, limits, machine, clock=machine.clock), machine


@pytest.mark.parametrize("minutes", [2, 10, 60])
@pytest.mark.parametrize("shape", [SMALL, CT])
def test_measuring_keeps_to_its_share_of_the_minutes(shape, minutes):
    """One pause aside, which nobody can foresee."""
    for seed in range(20):
        machine = busily(shape, minutes, seed)[1]
        assert machine.now - machine.last <= (MEASURING_SHARE + CHOICE_SHARE) * 60 * minutes


def test_without_pauses_measuring_keeps_to_its_share():
    class Calm(Busy):
        def __call__(self, width, patch, batch):
            self.now += 1 + 5 * Machine.__call__(self, width, patch, batch).seconds
            return Machine.__call__(self, width, patch, batch)

    for minutes in (0.5, 1, 3, 10, 60):
        for slowness in (1e-9, 1e-8, 1e-7, 1e-6):
            machine = Calm(0, seconds=slowness)
            limits = Limits(8 * 10**9, 60 * minutes, MEASURING_SHARE * 60 * minutes)
            sized(CT, limits, machine, clock=machine.clock)
            first = 1 + 5 * slowness * 8 * 2 * 32**3
            assert machine.now <= max((MEASURING_SHARE + CHOICE_SHARE) * 60 * minutes, 8 * first), (
                minutes,
                slowness,
            )


@pytest.mark.parametrize("seed", range(20))
def test_no_wider_network_is_foretold_more_steps_however_noisy_the_machine_is(seed):
    machine = Busy(seed)
    book, probes = _Book(machine, None, machine.clock), _probes(Grid(ISOTROPIC, CT), 3)
    for width in machine.random.sample(WIDTHS, len(WIDTHS)):
        for probe in probes:
            book.ask(width, *probe)
    for voxels in (1, 32**3, 50**3, 128**3, 512**3):
        foretold = [book.time(width, probes).at(voxels) for width in sorted(WIDTHS)]
        assert foretold == sorted(foretold)
    for width in WIDTHS:
        foretold = [book.time(width, probes).at(voxels) for voxels in (1, 32**3, 50**3, 128**3, 512**3)]
        assert foretold == sorted(foretold)


@pytest.mark.parametrize("minutes", [3, 10, 60])
def test_the_choice_hardly_depends_on_pauses_and_noise(minutes):
    """Of 20 noisy machines nearly all choose what a quiet one chooses, or the next width."""
    order = sorted(WIDTHS)
    quiet = order.index(sized(CT, Limits(8 * 10**9, 60 * minutes)).width)
    chosen = [order.index(busily(CT, minutes, seed)[0].width) for seed in range(20)]
    assert sum(abs(index - quiet) <= 1 for index in chosen) >= 17


def test_a_median_pace_is_what_the_steps_are_counted_by():
    class Uneven(Machine):
        def __call__(self, width, patch, batch):
            cost = super().__call__(width, patch, batch)
            return StepCost(cost.seconds, cost.bytes, 1.4 * cost.seconds)

    found = sized(CT, Limits(8 * 10**9, 1200), Uneven())
    assert found.steps == int(TRAINING_SHARE * 1200 / (1.4 * found.cost.seconds))


def test_a_foretold_choice_is_counted_by_the_pace_of_the_machine():
    class Uneven(Busy):
        def __call__(self, width, patch, batch):
            cost = super().__call__(width, patch, batch)
            return StepCost(cost.seconds, cost.bytes, 2 * cost.seconds)

    machine = Uneven(0)
    found = sized(CT, Limits(8 * 10**9, 600, 0.0), machine, clock=machine.clock)
    assert found.cost.pace == pytest.approx(2 * found.cost.seconds)


def test_a_hopeless_plan_advises_more_minutes_and_a_good_one_does_not():
    slow, fast = (sized(CT, Limits(8 * 10**9, 60), Machine(seconds=s)) for s in (1e-6, 1e-8))
    said = more_minutes(slow, 1)
    assert slow.steps < 200
    minutes = int(re.search(r"give --minutes (\d+) at the very least", said)[1])
    again = sized(CT, Limits(8 * 10**9, 60 * minutes), Machine(seconds=1e-6))
    assert again.steps >= 200
    assert more_minutes(again, minutes) == more_minutes(fast, 1) == ""


def test_where_nothing_may_be_measured_any_more_the_choice_is_foretold():
    machine = Busy(0)
    found = sized(CT, Limits(8 * 10**9, 600, 0.0), machine, clock=machine.clock)
    assert len(machine.asked) <= 2 * TURNS
    assert found.width == min(WIDTHS)
    assert found.steps > 0


def test_a_budget_that_nothing_fits_is_said():
    with pytest.raises(MedfuseError, match="more than 1 MiB; give 191MiB or more"):
        sized(CT, Limits(2**20), Machine(fixed=1e8))


def test_a_flat_network_is_sized_by_its_slices():
    found = sized((320, 260, 100), Limits(10**9), cases=1000, dims=2)
    assert len(found.patch_size) == 2
    assert found.batch_size > 2
