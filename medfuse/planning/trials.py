"""Candidates are trained for real, in short rungs on inner training cases: the better half goes on."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from medfuse.api import Split
from medfuse.core.errors import reason

FEWEST_SECONDS = 8.0
"""Of a training that tells something about a plan."""
SETTING_UP = 2.0
"""Seconds that a training takes beside its own, as first guessed; then as measured."""
JUDGING_SHARE = 0.2
"""Of a training's time that judging it takes, as first guessed."""
LEARNED = 0.3
"""Dice below which a network has hardly begun to learn, so that its place tells nothing."""
MOST_CANDIDATES = 6
FEWEST_TRAINING = 6
"""Cases without which trials tell nothing, where a dataset has as many."""
MOST_TRAINING, MOST_JUDGING = 32, 6
"""Cases that rungs learn from, and are judged by."""
MOST_PAIRED = 12
"""Cases by which two plans are compared, where the difference is what is asked for."""
REPEATS = 3
"""Trainings of each of two plans by which their difference is told apart from that of two trainings."""
REPEATS_SHARE = 0.5
"""Of the time for trials that goes into these."""
CLEARLY = 0.02
"""Dice by which a later candidate has to be better than an earlier one, as rungs are short and prefer what is
quick to learn."""


@dataclass(frozen=True)
class Rung:
    """One short training of a candidate: its seconds, its steps, and the Dice of inner held-out cases.

    That is at the probabilities at which it is highest, as a short training makes a network sure of little.
    `cases`: the same of each by itself. `repeat`: from 1 on, where it was trained several times alike but for
    chance.
    """

    candidate: int
    seconds: float
    steps: int
    dice: float
    cases: Mapping[str, float] = field(default_factory=dict)
    repeat: int = 0


@dataclass(frozen=True)
class Trials:
    """What was tried, in order, and which candidate was chosen; `seconds` in all."""

    rungs: tuple[Rung, ...] = ()
    chosen: int = 0
    seconds: float = 0.0

    def best(self, count: int) -> tuple[int, ...]:
        """Of `count` candidates, from the best on: by the last rung that each was in, the longest first.

        Those that were not tried follow in their own order.
        """
        last = {rung.candidate: rung for rung in self.rungs}
        order = sorted(last.values(), key=lambda rung: (-rung.seconds, -rung.dice, rung.candidate))
        return tuple(dict.fromkeys([self.chosen, *(rung.candidate for rung in order), *range(count)]))

    def last(self, candidate: int) -> Rung | None:
        """The longest rung of a candidate; None where it was not trained."""
        return next((rung for rung in reversed(self.rungs) if rung.candidate == candidate), None)

    def pace(self, candidate: int) -> float | None:
        """Seconds that a step of it took in training, its data and all; None where none did."""
        last = self.last(candidate)
        return last.seconds / last.steps if last and last.steps else None


Train = Callable[[int, float, int], Rung]
"""(candidate, seconds, repeat) → what its training came to. Raises something where it cannot be trained."""


def halving(
    count: int,
    seconds: float,
    train: Train,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    *,
    compared: int = 0,
) -> Trials:
    """Successive halving of candidates 0 … count - 1 within `seconds`; where there is no time, the first.

    Each rung takes as much time as the one before, for half as many candidates. A candidate displaces an
    earlier one only where it is clearly better. The last `compared` ones are halved among themselves, in the
    same rungs, and are never chosen.
    """
    began, beside = clock(), 0.0  # what trainings took beside their own time
    rungs: list[Rung] = []
    first = count - compared
    alive = _fewer(range(first), range(first, count), MOST_CANDIDATES)
    while alive.more and _each(seconds, alive, beside) < FEWEST_SECONDS:
        alive = _fewer(alive.own, alive.others, len(alive) - 1)
    scores: dict[int, float] = {}
    while len(alive) > 1:
        left = seconds - (clock() - began)
        each = _each(left, alive, beside)
        if each < FEWEST_SECONDS:
            break
        broken = set()
        for candidate in (*alive.own, *alive.others):
            started = clock()
            try:
                rung = train(candidate, each, 0)
            except Exception as error:  # such as memory that is short: the others can still be tried
                say(f"  candidate {candidate + 1} cannot be trained: {reason(error)}")
                broken.add(candidate)
                continue
            beside = max(beside, clock() - started - each)
            rungs.append(rung)
            scores[candidate] = rung.dice
            say(f"  candidate {candidate + 1}: Dice {rung.dice:.3f} after {rung.steps} steps")
        alive = alive.without(broken).halved(scores)
        if not alive.more:
            break
    tried = [candidate for candidate in alive.own if candidate in scores]
    chosen = _order(tried, scores)[0] if tried else alive.own[0] if alive.own else 0
    return Trials(tuple(rungs), chosen, clock() - began)


def beside(
    count: int,
    seconds: float,
    train: Train,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    *,
    compared: int,
) -> Trials:
    """Halving beside the last `compared` candidates; then the best of both are trained again, REPEATS times.

    That is where there is time for it; where there are but two, nothing else is done.
    """
    began = clock()
    only_two = count == 2 and compared == 1
    share = 1.0 if only_two else REPEATS_SHARE
    repeated = compared > 0 and _of_repeats(share * seconds) >= FEWEST_SECONDS
    if repeated and only_two:
        made = Trials()
    else:
        kept = share * seconds if repeated else 0.0
        made = halving(count, seconds - kept, train, say, clock, compared=compared)
    others = [number for number in made.best(count) if number >= count - compared]
    if repeated and (made.last(made.chosen) or only_two):
        each = _of_repeats(seconds - (clock() - began))
        rungs = _repeats((made.chosen, others[0]), each, train, say) if each >= FEWEST_SECONDS else ()
        made = Trials((*made.rungs, *rungs), made.chosen)
    return replace(made, seconds=clock() - began)


def _of_repeats(seconds: float) -> float:
    """Seconds for each of the trainings of two plans."""
    slot = seconds / REPEATS / 2
    return slot - (SETTING_UP + JUDGING_SHARE * slot)


def _repeats(
    two: tuple[int, int], seconds: float, train: Train, say: Callable[[str], None]
) -> tuple[Rung, ...]:
    rungs = []
    for repeat in range(1, REPEATS + 1):
        for candidate in two:
            try:
                rungs.append(train(candidate, seconds, repeat))
            except Exception as error:
                say(f"  candidate {candidate + 1} cannot be trained: {reason(error)}")
                return ()
            say(
                f"  candidate {candidate + 1}, again: Dice {rungs[-1].dice:.3f} after {rungs[-1].steps} steps"
            )
    return tuple(rungs)


@dataclass(frozen=True)
class _Alive:
    """Candidates that are still in, and those that they are compared with."""

    own: tuple[int, ...]
    others: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.own) + len(self.others)

    @property
    def more(self) -> bool:
        """Whether there is anything to be halved."""
        return max(len(self.own), len(self.others)) > 1

    def without(self, broken: Collection[int]) -> _Alive:
        own, others = (tuple(one for one in some if one not in broken) for some in (self.own, self.others))
        return _Alive(own, others)

    def halved(self, scores: Mapping[int, float]) -> _Alive:
        own, others = (
            tuple(_order(some, scores)[: max(1, len(some) // 2)]) for some in (self.own, self.others)
        )
        return _Alive(own, others)


def _fewer(own: Sequence[int], others: Sequence[int], most: int) -> _Alive:
    """No more than so many: the last of those that there are more of are left out, but never all."""
    kept, compared = list(own), list(others)
    while len(kept) + len(compared) > most:
        (compared if len(compared) > len(kept) else kept).pop()
    return _Alive(tuple(kept), tuple(compared))


def _each(seconds: float, alive: _Alive, beside: float) -> float:
    """Seconds for one training of them, where as much time is kept for each of the later rungs."""
    slot = _slot(seconds, len(alive), max(len(alive.own), len(alive.others)))
    return slot - (beside or SETTING_UP + JUDGING_SHARE * slot)


def _slot(seconds: float, count: int, halved: int) -> float:
    """Seconds for one of `count` in the first rung, with all that is beside training; `halved`: the most that
    are halved to one."""
    rungs = max(1, halved.bit_length() - 1)
    return seconds / rungs / count


def affordable(judging: Sequence[float], seconds: float, most: int = MOST_JUDGING) -> tuple[int, int]:
    """How many of the candidates, from the first on, and how many cases to judge by, at 1 at least.

    `judging`: seconds that looking at a case with each candidate takes. `most`: cases.
    """
    tried = min(len(judging), MOST_CANDIDATES)
    slot = _slot(seconds, tried, tried)
    count = next((n for n, each in enumerate(judging) if each > slot / 2), len(judging))
    slowest = max(judging[:count], default=0.0)
    return count, max(1, min(most, int(JUDGING_SHARE * slot / max(slowest, 1e-9))))


def _order(candidates: Sequence[int], scores: Mapping[int, float]) -> list[int]:
    """From the best on; the earliest counts as CLEARLY better than it was, and as one that has LEARNED."""
    first = min(candidates, default=0)

    def score(candidate: int) -> float:
        known = scores[candidate]
        return max(known, LEARNED) + CLEARLY if candidate == first else known

    return sorted(candidates, key=lambda candidate: (-score(candidate), candidate))


def inner_split(
    split: Split, patient_of: Mapping[str, str], seed: int, most_judging: int = MOST_JUDGING
) -> Split:
    """Some training cases to learn from and some to be judged by; a patient is on one side."""
    patients: dict[str, list[str]] = {}
    for name in split.train:
        patients.setdefault(patient_of.get(name, name), []).append(name)
    order = sorted(patients)
    random.Random(seed).shuffle(order)
    held = max(1, min(most_judging, len(order) // 4))
    judging = [name for patient in order[:held] for name in patients[patient]][:most_judging]
    training = [name for patient in order[held:] for name in patients[patient]][:MOST_TRAINING]
    return Split(tuple(training), tuple(judging))
