"""The choice of width, patch and batch, by costs that follow a law."""

from math import prod

import pytest

from medfuse.core.errors import MedfuseError
from medfuse.runs.sizing import ENOUGH_STEPS, TRAINING_SHARE, Limits, size_network
from medfuse.train.cost import StepCost

CT, SMALL = (512, 512, 300), (36, 50, 36)
ISOTROPIC = (1.0, 1.0, 1.0)


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
    return size_network(shape, ISOTROPIC, cases, machine or Machine(), limits, **more)


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
    found = sized(CT, Limits(8 * 10**9, 120))
    assert found.width < 32
    assert "32 channels would see" in found.width_reason


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


def test_a_budget_that_nothing_fits_is_said():
    with pytest.raises(MedfuseError, match="more than 1 MiB; give more"):
        sized(CT, Limits(2**20), Machine(fixed=1e8))


def test_a_flat_network_is_sized_by_its_slices():
    found = sized((320, 260, 100), Limits(10**9), cases=1000, dims=2)
    assert len(found.patch_size) == 2
    assert found.batch_size > 2
