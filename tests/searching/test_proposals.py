"""What is proposed: from the space, the same again, and better where something is better."""

import itertools

import pytest

from medfuse.searching.proposals import Proposer, Tried
from medfuse.space.dimensions import Choices, Range, Subset

SPACE = {
    "kind": Choices(("a", {"use": "b"}, None)),
    "rate": Range(1e-4, 1e-1, log=True),
    "depth": Range(1, 5, whole=True),
    "some": Subset(("x", "y", "z"), 2),
}
PRIOR = {"kind": "a"}


def first(proposer, number, known=(), best=PRIOR, count=20):
    return [*itertools.islice(proposer.propose(number, known, best), count)]


def tried(values):
    return Tried(values, (-abs(values.get("depth", 1) - 5) / 5 + (values.get("kind") == "a"),))


@pytest.fixture(scope="module")
def known():
    made = first(Proposer(SPACE, PRIOR, "random", 1), 0, count=40)
    made[3].pop("rate")  # which had no meaning there
    return [tried(values) for values in made]


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_every_value_is_of_the_space(known, method):
    for values in first(Proposer(SPACE, PRIOR, method, 1), 7, known):
        assert values.get("kind") in SPACE["kind"].options
        assert 1e-4 <= values.get("rate", 1e-2) <= 1e-1
        assert values.get("depth", 1) in range(1, 6)
        some = values.get("some", ["x", "y"])
        assert len(some) >= 2
        assert some == sorted(some)


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_the_same_is_proposed_again_to_who_knows_the_same(known, method):
    made, again = (first(Proposer(SPACE, PRIOR, method, 1), 7, known, count=8) for _ in range(2))
    assert made == again
    assert made != first(Proposer(SPACE, PRIOR, method, 1), 8, known, count=8)
    assert made != first(Proposer(SPACE, PRIOR, method, 2), 7, known, count=8)


def test_more_of_what_is_proposed_is_good_than_by_chance(known):
    mean = {}
    for method in ("tpe", "random"):
        proposer = Proposer(SPACE, PRIOR, method, 1)
        made = [first(proposer, n, known, count=1)[0] for n in range(40)]
        mean[method] = sum(tried(values).scores[0] for values in made) / len(made)
    assert mean["tpe"] > mean["random"]
