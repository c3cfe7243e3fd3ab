"""Which trial goes on: asynchronous successive halving (Li et al. 2020), for one objective or a front.

All of it is a function of what is known, so that a search that was killed goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Scores = Sequence[float]
"""What a trial reached, one number for each objective; more is better in each."""


def order(scores: Mapping[int, Scores]) -> list[int]:
    """Trials from the best on: by fronts (Deb et al. 2002), within one by how alone it is, then by number.

    Of a single objective that is its order.
    """
    left, ordered = dict(scores), []
    while left:
        front = [n for n in left if not any(dominates(left[m], left[n]) for m in left if m != n)]
        alone = _alone({n: left[n] for n in front})
        ordered += sorted(front, key=lambda n: (-alone[n], [-s for s in left[n]], n))
        for n in front:
            del left[n]
    return ordered


def front(scores: Mapping[int, Scores]) -> list[int]:
    """The trials that no other is better than in everything."""
    return [n for n in scores if not any(dominates(scores[m], scores[n]) for m in scores if m != n)]


def dominates(a: Scores, b: Scores) -> bool:
    return all(x >= y for x, y in zip(a, b)) and any(x > y for x, y in zip(a, b))


def _alone(scores: Mapping[int, Scores]) -> dict[int, float]:
    """How far a trial's neighbours on the front are from each other; without end for the ends of it."""
    found = dict.fromkeys(scores, 0.0)
    some = next(iter(scores.values()), ())
    if len(some) < 2:
        return found
    for axis in range(len(some)):
        by = sorted(scores, key=lambda n: (scores[n][axis], n))
        span = scores[by[-1]][axis] - scores[by[0]][axis]
        if span <= 0:
            continue
        found[by[0]] = found[by[-1]] = float("inf")
        for before, n, after in zip(by, by[1:], by[2:]):
            found[n] += (scores[after][axis] - scores[before][axis]) / span
    return found


@dataclass(frozen=True)
class Step:
    """A trial, and the rung that it is trained to; None for a new trial."""

    trial: int | None
    rung: int = 0


@dataclass(frozen=True)
class Known:
    """What a search knows: how many were asked for, and what each told at each rung.

    `held`: steps that another worker is at.
    """

    asked: int
    told: Sequence[Mapping[int, Scores]]
    failed: frozenset[int] = frozenset()

    def reached(self, trial: int) -> int:
        """The highest rung it was judged at; -1 where it was at none."""
        return max((r for r, scores in enumerate(self.told) if trial in scores), default=-1)


def next_steps(known: Known, eta: int, *, may_ask: bool, closing: bool) -> list[Step]:
    """What could be done now, the first thing first; of several workers each does another.

    Trial 0 goes through all rungs. Then whatever is due goes on, the highest rung first; a new trial is
    asked for where none is due. `closing`: no more will be asked for, so the best of each rung goes on.
    """
    top = len(known.told) - 1
    steps = []
    if known.asked and 0 not in known.failed and known.reached(0) < top:
        steps.append(Step(0, known.reached(0) + 1))
    begun = [n for n in range(known.asked) if known.reached(n) < 0 and n not in known.failed and n]
    steps += [Step(n, 0) for n in begun]
    for rung in range(top - 1, -1, -1):
        scores = known.told[rung]
        due = len(scores) // eta
        if closing:
            due = max(due, 1 + (0 in scores))
        elif sum(n != 0 for n in known.told[rung + 1]) >= due:
            continue  # as many have gone on as should: the order of those that follow will change
        on = {n for above in known.told[rung + 1 :] for n in above} | known.failed
        steps += [Step(n, rung + 1) for n in order(scores)[:due] if n not in on and n]
    if may_ask and not closing:
        steps.append(Step(None))
    return steps


def best_of(told: Sequence[Mapping[int, Scores]]) -> int | None:
    """The best in the first objective at the highest rung that any was judged at."""
    for scores in reversed(told):
        if scores:
            return max(scores, key=lambda n: (scores[n][0], -n))
    return None
