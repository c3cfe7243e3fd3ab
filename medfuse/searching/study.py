"""A search as a whole: what is trained next, how long there is, and when trials give way to the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medfuse.core.errors import MedfuseError, PipelineError, Problem, reason
from medfuse.core.lock import InUse, locked
from medfuse.core.memory import LACKS, lacks_memory
from medfuse.core.reporter import Reporter
from medfuse.core.text import duration
from medfuse.pipeline import Pipeline
from medfuse.searching.admitted import Gate
from medfuse.searching.budget import Budget, seeds_of
from medfuse.searching.combination import changes
from medfuse.searching.halving import Known, Step, best_of, next_steps, order
from medfuse.searching.journal import Asked, Journal, Told
from medfuse.searching.proposals import Proposer, Tried
from medfuse.searching.trial import Bench
from medfuse.space.settings import SearchSettings

MOST_REFUSED = 300
"""Combinations in a row that are refused, or were tried, before a search says that there are no more."""


@dataclass
class Study:
    """A search that is under way; of several workers each has one."""

    settings: SearchSettings
    gate: Gate
    budget: Budget
    journal: Journal
    bench: Bench
    inner: Path
    reporter: Reporter
    precision: str | None = None
    _waits: float = field(default=1.0)

    # ---- trials

    def work(self) -> None:
        """Train trials until there are no more to train, or the time for them is over."""
        while True:
            with ExitStack() as held:
                step = self._next(held)
                if step is None:
                    if not self._others_work():
                        return
                    time.sleep(self._waits)
                    continue
                self._train(step)

    def _next(self, held: ExitStack) -> Step | None:
        """What this worker does now, which it holds; a new trial is written down before it begins."""
        with self.journal.turn():
            known, time_left = self.known(), self.time_left()
            if self.bench.reference is None and 0 in known.told[0]:
                self.settle_reference()
            if time_left is not None and time_left <= 0 and self._enough(known):
                return None
            closing = self._closing(known, time_left)
            may_ask = self.settings.trials is None or known.asked < self.settings.trials
            may_ask = may_ask and not self.journal.is_exhausted
            if taken := self._first(known, time_left, held, may_ask, closing or not may_ask):
                return taken
            now_exhausted = may_ask and self.journal.is_exhausted
            return self._first(known, time_left, held, False, True) if now_exhausted else None

    def _first(
        self, known: Known, time_left: float | None, held: ExitStack, may_ask: bool, closing: bool
    ) -> Step | None:
        """The first thing that can be done now, and that nobody else is at."""
        for step in next_steps(known, self.settings.eta, may_ask=may_ask, closing=closing):
            if not self._fits(step, known, time_left):
                continue
            if step.trial != 0 and known.asked and 0 not in known.told[0]:
                continue  # trial 0 decides the grid and the precision of all
            taken = self._ask(known) if step.trial is None else step
            if taken and self._hold(taken, held):
                return taken
        return None

    def _hold(self, step: Step, held: ExitStack) -> bool:
        """Whether no other worker trains this trial now, nor has just told what it came to."""
        assert step.trial is not None
        folder = self.journal.folder / "trials" / f"{step.trial:04d}.held"
        folder.mkdir(exist_ok=True)
        with ExitStack() as mine:
            try:
                mine.enter_context(locked(folder))
            except InUse:
                return False
            if self.journal.is_over(step.trial, step.rung):
                return False
            held.push(mine.pop_all())
        return True

    def _others_work(self) -> bool:
        with self.journal.turn():
            for folder in sorted((self.journal.folder / "trials").glob("*.held")):
                try:
                    with locked(folder):
                        pass
                except InUse:
                    return True
        return False

    def known(self) -> Known:
        rungs = len(self.budget.amounts)
        told: list[dict[int, Any]] = [{} for _ in range(rungs)]
        for one in self.journal.told():
            told[one.rung][one.number] = self.scores(one)
        return Known(len(self.journal.asked()), told, frozenset(self.journal.failed()))

    def scores(self, told: Told) -> tuple[float, ...]:
        """What trials are ordered by: more is better. Before the last rung Dice is that of `ripe`."""
        last = told.rung == len(self.budget.amounts) - 1
        found = {
            "dice": told.dice if last else told.ripe,
            "seconds_per_case": -told.seconds_per_case,
            "memory": -float(told.memory),
            "parameters": -float(told.parameters),
        }
        return tuple(found[name] for name in self.settings.objectives)

    def _ask(self, known: Known) -> Step | None:
        """A new trial, written down; None where no combination is left, which is written down too."""
        asked = self.journal.asked()
        if not asked:
            self.journal.ask(Asked(0, {}, {}))
            return Step(0)
        number, refused = len(asked), {}
        space = self.gate.space
        tried = {space.identity(one.values) for one in asked}
        proposals = self._proposals(number, asked)
        for _ in range(MOST_REFUSED):
            values = next(proposals)
            try:
                combined = self.gate.admit(values)
            except MedfuseError as error:
                refused[_name(values)] = error.lines[0]
                continue
            if space.identity(combined.values) not in tried:
                self.journal.ask(Asked(number, combined.values, refused))
                return Step(number)
        self.journal.exhaust(number)
        self.reporter.say(
            f"all that the space holds was tried, as far as {MOST_REFUSED} proposals find: {number} trials"
        )
        return None

    def _proposals(self, number: int, asked: list[Asked]) -> Iterator[dict[str, Any]]:
        prior = self.gate.space.prior()
        known = self.known()
        values = {one.number: dict(one.values) or prior for one in asked}
        fewest = max(6, len(self.gate.space.dimensions) + 2)
        rung = max((r for r, told in enumerate(known.told) if len(told) >= fewest), default=0)
        tried = [Tried(values[n], scores) for n, scores in sorted(known.told[rung].items())]
        best = best_of(known.told)
        proposer = Proposer(self.gate.space.dimensions, prior, self.settings.method, self.settings.seed)
        return proposer.propose(number, tried, values[best] if best is not None else prior)

    def _train(self, step: Step) -> None:
        assert step.trial is not None
        asked = self.journal.asked()[step.trial]
        what = ", ".join(changes(self.gate.space.differing(asked.values))) or "as the file is written"
        try:
            told = self._told(asked, step)
        except MedfuseError as error:
            if step.trial == 0:
                raise
            self.journal.fail(step.trial, reason(error))
            self.reporter.say(f"trial {step.trial}: cannot be trained: {reason(error)} ({what})")
            return
        self.journal.tell(told)
        rungs = len(self.budget.amounts)
        self.reporter.say(
            f"trial {step.trial}, rung {step.rung + 1} of {rungs}: Dice {told.dice:.3f} after {told.steps:,} "
            f"steps, {duration(told.seconds)}: {what}"
        )
        if step.trial == 0:
            self.settle_reference()
            self.refuse_too_small()

    def _told(self, asked: Asked, step: Step) -> Told:
        """What a trial comes to at a rung. Raises MedfuseError where it cannot be trained."""
        try:
            return self.bench.train(
                self.pipeline_of(asked, step.rung),
                self.journal.run_folder(asked.number),
                asked.number,
                step.rung,
                self.pipeline_of(asked, len(self.budget.amounts) - 1).train,
            )
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            raise MedfuseError(LACKS) from error

    def pipeline_of(self, asked: Asked, rung: int) -> Pipeline:
        """As it is trained at a rung: on the inner split, silently, in the precision of trial 0."""
        combined = self.gate.admit(asked.values)
        split = combined.pipeline.split.model_copy(update={"file": self.inner, "fold": 0, "stratify": False})
        train: dict[str, Any] = {**self.budget.at(rung), "validation_cases": 0}
        if self.precision and asked.number and combined.pipeline.train.precision == "auto":
            train["precision"] = self.precision
        return combined.pipeline.model_copy(
            update={
                "name": f"trial-{asked.number:04d}",
                "split": split,
                "train": combined.pipeline.train.model_copy(update=train),
                "track": (),
                "search": None,
            }
        )

    def settle_reference(self) -> None:
        """Of trial 0, once it began: the grid that all are judged on, and the precision that all train in."""
        from medfuse.core.json_text import read_json
        from medfuse.runs.records import read_plan

        folder = self.journal.run_folder(0)
        self.bench.reference = read_plan(folder)
        self.gate.see(self.bench.reference.image)
        if (folder / "precision.json").exists():
            self.precision = read_json(folder / "precision.json")["kind"]

    # ---- time

    def time_left(self) -> float | None:
        """Seconds that trials still have; None where no clock ends them."""
        if self.settings.minutes is None:
            return None
        return 60 * self.settings.minutes - self.reserve() - self.journal.spent()

    def reserve(self) -> float:
        """Seconds that the last trainings take: their share, until trial 0 has told what one takes."""
        assert self.settings.minutes is not None
        share = 60 * self.settings.minutes * self.settings.retrain
        full = self._full_seconds()
        if full is None:
            return share
        trainings = 2 * len(seeds_of(self.settings, self.gate.space.combine({}).pipeline))
        return 1.1 * trainings * full

    def _full_seconds(self) -> float | None:
        """What a training at the end takes, as trial 0 did, once it went through all rungs."""
        own = [one for one in self.journal.told() if one.number == 0]
        if not own or own[-1].rung < len(self.budget.amounts) - 1:
            return None
        beside = own[-1].seconds if self.budget.key == "minutes" else 0.0
        if self.budget.key == "minutes":
            before = self.budget.amounts[-2] if len(self.budget.amounts) > 1 else 0.0
            beside -= 60 * (self.budget.full - before)
            return 60 * self.budget.full + max(0.0, beside)
        return sum(one.seconds for one in own)

    def refuse_too_small(self) -> None:
        """Raises PipelineError where one trial and the last trainings take longer than there are minutes."""
        if self.settings.minutes is None:
            return
        own = [one for one in self.journal.told() if one.number == 0][-1]
        full = own.trained * self.budget.full / self.budget.amounts[own.rung]
        trainings = 2 * len(seeds_of(self.settings, self.gate.space.combine({}).pipeline))
        needed = (trainings + 1) * full / 60
        if needed > self.settings.minutes:
            raise PipelineError(
                [
                    Problem(
                        ("search", "minutes"),
                        f"{self.settings.minutes:g} minutes are too few: a training takes about "
                        f"{duration(full)}, as that of trial 0 does, and there are {trainings} more at the "
                        f"end; give {needed:.1f} at least, a smaller budget in `train`, or fewer seeds",
                    )
                ]
            )

    def _costs(self, known: Known) -> dict[int, float]:
        """Rung → median seconds that a trial took there."""
        found: dict[int, list[float]] = {}
        for one in self.journal.told():
            found.setdefault(one.rung, []).append(one.seconds)
        return {rung: sorted(seconds)[len(seconds) // 2] for rung, seconds in found.items()}

    def _fits(self, step: Step, known: Known, time_left: float | None) -> bool:
        """Whether there is time for it; trial 0 is always trained."""
        if time_left is None or step.trial == 0 or not known.asked:
            return True
        return self._costs(known).get(step.rung, 0.0) <= time_left

    def _closing(self, known: Known, time_left: float | None) -> bool:
        """Whether what is left is needed to take the best trials to the last rung."""
        if time_left is None:
            return False
        costs, top = self._costs(known), len(self.budget.amounts) - 1
        others = [n for n in known.told[top] if n]
        climb = sum(costs.get(rung, 0.0) for rung in range(1, top + 1)) if not others else 0.0
        return time_left < climb + costs.get(0, 0.0)

    def _enough(self, known: Known) -> bool:
        return 0 in known.told[-1] or 0 in known.failed

    # ---- the end

    def chosen(self) -> int:
        """The trial with the highest Dice, of those that went furthest."""
        known = self.known()
        best = best_of(known.told)
        assert best is not None, "trial 0 has been judged"
        return best

    def ranking(self) -> list[int]:
        return order(self.known().told[-1])


def _name(values: Mapping[str, Any]) -> str:
    from medfuse.space.dimensions import words

    return words(dict(sorted(values.items())))
