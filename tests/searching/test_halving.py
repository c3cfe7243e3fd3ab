"""Which trials go on."""

import itertools
import random

import pytest

from medfuse.searching.halving import Known, Step, best_of, dominates, front, next_steps, order


def play(asked, rungs, eta, quality):
    """A whole search by one worker; (trials at each rung, steps)."""
    told, steps, count = [{} for _ in range(rungs)], [], 0
    while True:
        known = Known(count, told)
        found = next_steps(known, eta, may_ask=count < asked, closing=count >= asked)
        if not found:
            return told, steps
        step = found[0]
        if step.trial is None:
            step, count = Step(count), count + 1
        assert step.trial not in told[step.rung], "nothing is trained twice"
        told[step.rung][step.trial] = (quality[step.trial],)
        steps.append(step)


@pytest.mark.parametrize(("rungs", "eta"), [(1, 3), (2, 2), (3, 3), (4, 2)])
def test_the_best_gets_to_the_last_rung_and_not_all_do(rungs, eta):
    quality = random.Random(rungs).sample(range(100), 27)
    told, _ = play(27, rungs, eta, quality)
    assert len(told[0]) == 27
    assert max(told[-1].values())[0] == max(quality)
    assert 0 in told[-1]
    for below, above in itertools.pairwise(told):
        assert {*order(below)[: len(below) // eta]} <= {*above}
        assert len(above) <= 2 * len(below) / eta + 2


def test_what_is_next_depends_on_what_is_known_alone():
    told, steps = play(9, 3, 3, [*range(9)])
    again, same = play(9, 3, 3, [*range(9)])
    assert (told, steps) == (again, same)


def test_what_cannot_be_trained_is_left_out():
    known = Known(3, [{0: (1.0,), 2: (0.5,)}, {0: (1.0,)}], frozenset({1}))
    assert next_steps(known, 2, may_ask=False, closing=True) == [Step(2, 1)]


def test_the_front_is_dominated_by_nothing_and_comes_first():
    chance = random.Random(1)
    scores = {n: (chance.random(), chance.random()) for n in range(30)}
    best = front(scores)
    assert not any(dominates(scores[m], scores[n]) for n in best for m in scores)
    assert {*order(scores)[: len(best)]} == {*best}
    assert sorted(order(scores)) == [*range(30)]


def test_of_one_objective_the_order_is_its_order():
    assert order({0: (0.1,), 1: (0.9,), 2: (0.5,), 3: (0.9,)}) == [1, 3, 2, 0]


def test_the_best_is_that_of_the_highest_rung():
    assert best_of([{0: (0.1,), 1: (0.9,)}, {0: (0.5,)}]) == 0
    assert best_of([{}, {}]) is None
