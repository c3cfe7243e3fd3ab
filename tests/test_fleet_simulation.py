"""The simulation of a large fleet keeps to what can be reckoned by hand."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CALM = {"slower": 0.0, "lame": 0.0, "odd": 0.0, "slow_every_s": 0.0, "lost": 0.0, "start_s": 0.0}


@pytest.fixture(scope="module")
def fleet():
    spec = importlib.util.spec_from_file_location("fleet_simulation", BENCHMARKS / "fleet.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def scans(fleet, *network_s):
    return [fleet.Scan(seconds, 0.0, 0.0, seconds, 0.0) for seconds in network_s]


def test_one_worker_takes_the_sum(fleet):
    told = fleet.Fleet(scans(fleet, 3.0, 10.0, 7.0), fleet.World(1, operation_s=0.0, **CALM), 1).run()
    assert told.wall_s == pytest.approx(20.0, abs=0.01)
    assert told.worked_s == pytest.approx(20.0)


def test_the_longest_come_first(fleet):
    world = fleet.World(2, operation_s=0.0, **CALM)
    told = fleet.Fleet(scans(fleet, *[10.0] * 20, 100.0), world, 1).run()
    assert told.wall_s == pytest.approx(150.0, abs=2.0)


def test_the_storage_is_the_limit_where_all_else_is_free(fleet):
    moved = [fleet.Scan(0.001, 0.0, 0.0, 5e7, 5e7)] * 40
    world = fleet.World(8, storage=1e8, operation_s=0.0, **CALM)
    told = fleet.Fleet(moved, world, 1).run()
    assert told.moved_bytes == pytest.approx(4e9)
    assert told.wall_s == pytest.approx(40.0, rel=0.05)


@pytest.mark.parametrize("lost", [0.1, 0.5])
@pytest.mark.parametrize("looks", [True, False])
def test_whoever_is_lost_every_case_is_done(fleet, lost, looks):
    world = fleet.World(20, lost=lost, looks_after_lost=looks)
    told = fleet.Fleet(scans(fleet, *range(1, 400)), world, 1).run()
    assert told.useful_s >= sum(range(1, 400))
    assert told.worked_s >= told.useful_s * 0.8
    assert told.there_s < 20 * told.wall_s


def test_lost_cases_that_are_taken_over_on_the_way_end_sooner(fleet):
    cases = scans(fleet, *[100.0] * 20, *[1.0] * 4000)
    wall = {}
    for looks in (True, False):
        world = fleet.World(10, lost=0.3, looks_after_lost=looks, slow_every_s=0.0, lame=0.0, odd=0.0)
        wall[looks] = sum(fleet.Fleet(cases, world, seed).run().wall_s for seed in range(8))
    assert wall[True] <= wall[False]
