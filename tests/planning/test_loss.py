"""What a limit of time costs of Dice, by rungs of which the values are known."""

import pytest

from medfuse.planning.loss import Loss, expected_loss
from medfuse.planning.trials import LEARNED, Rung, Trials

NAMES = [f"p{n}" for n in range(8)]
ALONE = {name: name for name in NAMES}


def rung(candidate, dice, *, lose=0.0, seconds=10.0, names=NAMES, repeat=0):
    """Cases differ; `lose` is lost of each, of every other one a little more."""
    cases = {name: dice + 0.01 * n - lose - 0.001 * (n % 2) * (lose != 0) for n, name in enumerate(names)}
    return Rung(candidate, seconds, 100 + candidate, dice - lose, cases, repeat)


def loss(*rungs, plan=0, free=(1,), patients=ALONE):
    return expected_loss(Trials(rungs, plan, 20.0), plan, free, patients)


@pytest.mark.parametrize("lost", [0.01, 0.05, -0.02])
def test_it_is_the_paired_difference_within_its_interval(lost):
    found = loss(rung(0, 0.8, lose=lost), rung(1, 0.8))
    assert found.interval.value == pytest.approx(lost, abs=0.001)
    assert found.interval.low <= found.interval.value <= found.interval.high
    assert found.interval.high - found.interval.low < 0.1  # cases differ more than plans do
    assert (found.against, found.steps) == (1, (100, 101))


def test_it_is_against_the_best_of_the_plans_without_a_limit():
    found = loss(rung(0, 0.7), rung(1, 0.75), rung(2, 0.8), rung(3, 0.9), free=(1, 2))
    assert found.against == 2
    assert found.interval.value == pytest.approx(0.1)


def test_the_last_rung_counts_and_only_where_both_were_in_it():
    short = [rung(0, 0.7), rung(1, 0.8)]
    assert loss(*short, rung(0, 0.85, seconds=20), rung(1, 0.9, seconds=20)).interval.value == pytest.approx(
        0.05
    )
    assert "was not tried beside" in loss(*short, rung(0, 0.85, seconds=20))


@pytest.mark.parametrize("chance", [0.0, 0.02])
def test_trainings_that_were_repeated_count_alone_and_with_their_chances(chance):
    first = [rung(0, 0.5, seconds=30), rung(1, 0.9, seconds=30)]
    again = [
        rung(number, 0.8 + (number == 0) * chance * (repeat - 2), lose=0.03 * (number == 0), repeat=repeat)
        for repeat in (1, 2, 3)
        for number in (0, 1)
    ]
    found = loss(*first, *again)
    assert found.trainings == 3
    assert found.interval.seeds == 3
    assert found.interval.value == pytest.approx(0.03, abs=0.001)
    assert (found.interval.high - found.interval.low > 0.03) == (chance > 0)


def test_a_plan_that_was_not_repeated_is_held_against_the_rung_that_it_was_in():
    again = [rung(number, 0.8, repeat=repeat, seconds=20) for repeat in (1, 2, 3) for number in (0, 2)]
    found = loss(rung(0, 0.8), rung(1, 0.75), rung(2, 0.8), *again, plan=1, free=(2,))
    assert (found.trainings, found.against) == (1, 2)
    assert found.interval.value == pytest.approx(0.05)


def test_a_plan_that_is_best_without_the_limit_loses_nothing():
    assert loss(rung(0, 0.8), rung(1, 0.7), free=(0, 1)) == Loss(0, (100, 100))


def test_scans_of_a_patient_are_no_more_than_one():
    two = {name: f"{n // 4}" for n, name in enumerate(NAMES)}
    apart, together = (loss(rung(0, 0.8, lose=0.02), rung(1, 0.8), patients=p) for p in (ALONE, two))
    assert together.interval.patients == 2
    assert together.interval.high - together.interval.low > apart.interval.high - apart.interval.low


@pytest.mark.parametrize(
    ("rungs", "said"),
    [
        ([], "nothing was measured"),
        ([rung(0, 0.8)], "nothing was measured"),
        ([rung(1, 0.8)], "nothing was measured"),
        ([rung(0, LEARNED / 2), rung(1, LEARNED / 3)], "learned too little"),
        ([rung(0, 0.8, names=["a"]), rung(1, 0.8, names=["b"])], "was not tried beside"),
    ],
)
def test_where_nothing_is_known_it_says_so(rungs, said):
    assert said in loss(*rungs)
