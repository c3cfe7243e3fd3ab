"""Workers on paper keep the laws of list scheduling."""

import random
from math import inf

import pytest

from medfuse.core.dispatch import dispatch


def times(count: int, seed: int = 0) -> list[float]:
    chance = random.Random(seed)
    return sorted((chance.lognormvariate(0, 1) for _ in range(count)), reverse=True)


def test_one_worker_takes_the_sum():
    assert dispatch([3, 2, 1], 1).wall_s == 6
    assert dispatch([], 3).wall_s == 0


def test_whoever_is_free_first_takes_the_next():
    made = dispatch([4, 3, 2, 2], 2)
    assert made.ends_s == (6, 5)  # 4 + 2, 3 + 2
    assert (made.wall_s, made.tail_s, made.utilisation) == (6, 1, pytest.approx(11 / 12))


def test_more_workers_than_cases_have_nothing_to_do_from_the_start():
    made = dispatch([5, 1], 4)
    assert (made.wall_s, made.tail_s) == (5, 5)


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("seed", range(3))
def test_no_plan_is_shorter_than_its_bounds_or_longer_than_the_one_of_graham(workers, seed):
    seconds = times(100, seed)
    least = max(sum(seconds) / workers, seconds[0])
    made = dispatch(seconds, workers)
    assert least <= made.wall_s + 1e-9
    assert made.wall_s <= sum(seconds) / workers + seconds[0]
    assert made.tail_s <= seconds[0] + 1e-9
    assert made.useful_s == pytest.approx(sum(seconds))


def test_a_worker_that_is_twice_as_fast_does_twice_as_much():
    made = dispatch([1.0] * 300, 2, speeds=[2, 1])
    assert made.wall_s == pytest.approx(100, abs=1)
    assert dispatch([4, 2], 1, speeds=[2]).wall_s == 3


def test_workers_that_load_for_longer_begin_later():
    assert dispatch([1.0] * 4, 2, begins_s=[0, 10]).ends_s == (4, 10)
    assert dispatch([2.0], 1, begins_s=[5]).wall_s == 7


def test_the_case_of_a_lost_worker_is_begun_anew_in_the_end():
    made = dispatch([4, 4, 1], 2, lost_s={0: 2})
    assert made.ends_s == (2, 9)  # 4, 1, and the 4 again
    assert (made.wall_s, made.tail_s, made.useful_s, made.undone) == (9, 0, 9, 0)
    assert made.utilisation == pytest.approx(9 / 11)
    late = dispatch([4, 4, 1], 2, lost_s={0: 2}, noticed_s=60)
    assert late.wall_s == 66


def test_where_all_are_lost_cases_are_left():
    made = dispatch([4, 4, 4], 2, lost_s={0: 1, 1: 6})
    assert (made.wall_s, made.undone, made.useful_s) == (inf, 2, 4)
    assert dispatch([1], 1, lost_s={0: 0}).undone == 1


def test_nothing_is_lost_or_doubled_whoever_goes():
    chance = random.Random(1)
    for _ in range(50):
        seconds, workers = times(chance.randint(1, 60)), chance.randint(2, 9)
        lost = {n: chance.uniform(0, 20) for n in range(workers - 1) if chance.random() < 0.6}
        made = dispatch(seconds, workers, lost_s=lost, noticed_s=chance.choice([0, 3]))
        assert made.undone == 0
        assert made.useful_s == pytest.approx(sum(seconds))
        assert all(made.ends_s[n] <= lost[n] for n in made.lost)


def test_no_worker_is_no_plan():
    with pytest.raises(ValueError, match="there must be one"):
        dispatch([1], 0)
