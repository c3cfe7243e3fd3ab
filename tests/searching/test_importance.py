"""What mattered is found, and what did not is said not to."""

import random

from medfuse.searching.importance import FEWEST, importances
from medfuse.searching.proposals import Tried
from medfuse.space.dimensions import Choices, Range

SPACE = {"matters": Choices(("a", "b")), "nothing": Choices((1, 2, 3)), "number": Range(0.0, 1.0)}


def trials(count):
    chance = random.Random(3)
    made = []
    for _ in range(count):
        values = {
            "matters": chance.choice("ab"),
            "nothing": chance.choice((1, 2, 3)),
            "number": chance.random(),
        }
        made.append(Tried(values, ((values["matters"] == "a") * 0.3 + chance.gauss(0, 0.05),)))
    return made


def test_what_mattered_is_found_and_the_rest_may_be_nothing():
    found = {one.key: one for one in importances(SPACE, trials(60))}
    assert found["matters"].share > 0.7
    assert found["matters"].low > 0.5
    assert found["nothing"].low < 0.02
    assert found["number"].share < 0.1


def test_nothing_is_said_of_few_trials_or_of_trials_that_are_alike():
    assert importances(SPACE, trials(FEWEST - 1)) == ()
    alike = [Tried(one.values, (0.5,)) for one in trials(20)]
    assert all(one.share == 0 for one in importances(SPACE, alike))


def test_a_key_without_meaning_in_some_trials_is_no_fault():
    some = [
        Tried({k: v for k, v in t.values.items() if k != "number" or n % 2}, t.scores)
        for n, t in enumerate(trials(30))
    ]
    assert len(importances(SPACE, some)) == 3
