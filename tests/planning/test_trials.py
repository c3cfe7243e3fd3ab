"""Successive halving of candidates, by trainings that follow a law, and the inner split that judges them."""

import pytest

from medfuse.api import Split
from medfuse.core.errors import DataError, PipelineError, Problem
from medfuse.planning.trials import (
    CLEARLY,
    FEWEST_SECONDS,
    JUDGING_SHARE,
    LEARNED,
    MOST_CANDIDATES,
    MOST_JUDGING,
    MOST_TRAINING,
    REPEATS,
    Rung,
    affordable,
    beside,
    halving,
    inner_split,
)


class Gym:
    """Candidates whose Dice rises to a limit of their own; a training takes two seconds beside its own."""

    fault: Exception = PipelineError([Problem((), "it does not fit")])

    def __init__(self, *limits, setting_up=2.0, broken=()):
        self.limits, self.setting_up, self.broken = limits, setting_up, broken
        self.now, self.asked = 0.0, []

    def train(self, candidate, seconds, repeat=0):
        self.asked.append(candidate)
        self.now += self.setting_up
        if candidate in self.broken:
            raise self.fault
        self.now += seconds
        dice = self.limits[candidate] * seconds / (seconds + 5)
        return Rung(candidate, seconds, int(10 * seconds), dice, repeat=repeat)

    def clock(self):
        return self.now

    def tried(self, seconds):
        return halving(len(self.limits), seconds, self.train, lambda line: None, self.clock)


@pytest.mark.parametrize("best", range(4))
@pytest.mark.parametrize("seconds", [120, 200, 2000])
def test_the_clearly_best_candidate_is_chosen(best, seconds):
    gym = Gym(*(0.9 if number == best else 0.6 for number in range(4)))
    assert gym.tried(seconds).chosen == best


def test_the_first_stays_where_another_is_hardly_better():
    assert Gym(0.8, 0.8 + CLEARLY / 2).tried(100).chosen == 0
    assert Gym(0.8, 0.8 + 3 * CLEARLY).tried(100).chosen == 1


def test_where_nothing_has_learned_yet_the_first_stays():
    assert Gym(0.0, LEARNED - 0.01).tried(100).chosen == 0
    assert Gym(0.0, 0.9).tried(100).chosen == 1


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("setting_up", [0.1, 2, 6])
@pytest.mark.parametrize("seconds", [5, 20, 50, 100, 300, 1000])
def test_it_keeps_to_its_time_and_no_training_is_too_short(count, setting_up, seconds):
    gym = Gym(*[0.5] * count, setting_up=setting_up)
    made = gym.tried(seconds)
    longer_than_guessed = max(0.0, setting_up - 2) * MOST_CANDIDATES
    assert gym.now <= seconds + longer_than_guessed + 1e-6
    assert made.seconds == gym.now
    assert all(rung.seconds >= FEWEST_SECONDS for rung in made.rungs)
    assert len({*gym.asked}) <= MOST_CANDIDATES


def test_the_better_half_goes_on_and_for_longer():
    rungs = Gym(0.1, 0.9, 0.2, 0.8).tried(300).rungs
    assert [rung.candidate for rung in rungs[:4]] == [0, 1, 2, 3]
    assert {rung.candidate for rung in rungs[4:]} == {1, 3}
    assert min(r.seconds for r in rungs[4:]) > 1.5 * max(r.seconds for r in rungs[:4])


def test_one_that_cannot_be_trained_is_left_out():
    gym = Gym(0.9, 0.5, 0.7, broken=(0,))
    assert gym.tried(200).chosen == 2
    assert gym.asked.count(0) == 1
    assert Gym(0.9, 0.8, broken=(0, 1)).tried(200).chosen == 0


@pytest.mark.parametrize("fault", [RuntimeError("CUDA out of memory"), MemoryError(), DataError("damaged")])
def test_whatever_it_fails_of_the_others_are_tried(fault):
    gym, said = Gym(0.9, 0.5, 0.7, broken=(0,)), []
    gym.fault = fault
    assert halving(3, 200, gym.train, said.append, gym.clock).chosen == 2
    assert "candidate 1 cannot be trained: " in said[0]


def test_no_more_is_tried_than_can_be_judged_in_the_time():
    assert affordable([0.001] * 3, 100) == (3, MOST_JUDGING)
    assert affordable([0.001, 0.001, 1000], 100)[0] == 2
    assert affordable([1000, 0.001], 100)[0] == 0
    for each in (0.1, 1.0, 4.0, 10.0):
        count, cases = affordable([each, each], 100)
        assert (count, 1) == (2, cases) or each * cases <= JUDGING_SHARE * 50


def test_candidates_are_listed_from_the_best_on():
    made = Gym(0.1, 0.9, 0.2, 0.8).tried(300)
    assert made.best(6) == (1, 3, 2, 0, 4, 5)
    assert made.pace(1) == pytest.approx(0.1, rel=0.1)
    assert made.pace(4) is None


@pytest.mark.parametrize("patients", [2, 5, 40, 200])
@pytest.mark.parametrize("seed", range(5))
def test_patients_are_on_one_side_of_an_inner_split(patients, seed):
    patient_of = {f"p{p:03d}_{scan}": f"p{p:03d}" for p in range(patients) for scan in "ab"}
    outer = Split(tuple(name for name in patient_of if name != "p000_a"), ("p000_a",))
    inner = inner_split(outer, patient_of, seed)
    sides = [{patient_of[name] for name in names} for names in (inner.train, inner.validation)]
    assert all(sides)
    assert not sides[0] & sides[1]
    assert {*inner.train, *inner.validation} <= {*outer.train}
    assert len(inner.train) <= MOST_TRAINING
    assert len(inner.validation) <= MOST_JUDGING
    assert inner == inner_split(outer, patient_of, seed)


def compared(*limits, seconds, others, **how):
    gym = Gym(*limits, **how)
    made = halving(len(limits), seconds, gym.train, lambda line: None, gym.clock, compared=others)
    return gym, made


@pytest.mark.parametrize("seconds", [40, 120, 300, 2000])
@pytest.mark.parametrize(("own", "others"), [(1, 1), (2, 1), (4, 1), (4, 2), (1, 2)])
def test_what_is_compared_with_is_never_chosen_and_is_in_the_last_rung(own, others, seconds):
    limits = [*(0.5 + 0.03 * n for n in range(own)), *(0.9 for _ in range(others))]
    gym, made = compared(*limits, seconds=seconds, others=others)
    assert made.chosen < own
    assert gym.now <= seconds
    assert made.rungs or seconds == 40
    if made.rungs:
        last = made.rungs[-1]
        assert last.candidate >= own
        assert made.last(made.chosen).seconds == last.seconds
        assert {rung.candidate < own for rung in made.rungs} == {True, False}


def besides(*limits, seconds, others, **how):
    gym = Gym(*limits, **how)
    return gym, beside(len(limits), seconds, gym.train, lambda line: None, gym.clock, compared=others)


@pytest.mark.parametrize("seconds", [50, 80, 160, 300, 2000])
@pytest.mark.parametrize(("own", "others"), [(1, 1), (2, 1), (4, 1), (4, 2)])
def test_where_there_is_time_the_best_of_both_are_trained_again_and_alike(own, others, seconds):
    limits = [*(0.5 + 0.1 * n for n in range(own)), *(0.9 for _ in range(others))]
    gym, made = besides(*limits, seconds=seconds, others=others)
    assert gym.now <= seconds
    assert made.chosen < own
    again = [rung for rung in made.rungs if rung.repeat]
    if seconds == 2000:
        assert len(again) == 2 * REPEATS
        assert made.chosen == own - 1
    if again:
        assert {rung.candidate for rung in again} == {made.chosen, own}
        assert [rung.repeat for rung in again] == [n for n in range(1, REPEATS + 1) for _ in "ab"]
        assert len({rung.seconds for rung in again}) == 1
        assert min(rung.seconds for rung in again) >= FEWEST_SECONDS
    else:
        assert seconds < 300


@pytest.mark.parametrize("seconds", [50, 300, 2000])
def test_where_nothing_is_compared_nothing_is_repeated(seconds):
    _, made = besides(0.1, 0.9, 0.2, 0.8, seconds=seconds, others=0)
    assert made == Gym(0.1, 0.9, 0.2, 0.8).tried(seconds)


def test_a_repetition_that_fails_leaves_what_is_known():
    class Tired(Gym):
        def train(self, candidate, seconds, repeat=0):
            if repeat == 2:
                raise self.fault
            return super().train(candidate, seconds, repeat)

    gym = Tired(0.5, 0.9, 0.9)
    made = beside(3, 600, gym.train, lambda line: None, gym.clock, compared=1)
    assert made.chosen == 1
    assert made.rungs
    assert not any(rung.repeat for rung in made.rungs)


def test_with_nothing_to_compare_with_rungs_are_as_before():
    plain = Gym(0.1, 0.9, 0.2, 0.8).tried(300)
    _, made = compared(0.1, 0.9, 0.2, 0.8, seconds=300, others=0)
    assert made == plain


def test_where_what_is_compared_with_cannot_be_trained_the_others_are_chosen_from():
    _, made = compared(0.5, 0.9, 0.9, seconds=300, others=1, broken=(2,))
    assert made.chosen == 1
    assert made.last(2) is None
