"""Candidates are trained for real, in short rungs on inner training cases: the better half goes on."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.api import Case, Split
from medfuse.core.document import Document
from medfuse.core.errors import reason
from medfuse.core.files import make_folder
from medfuse.core.reporter import Reporter
from medfuse.pipeline import parse_pipeline, plan_network

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medfuse.api import DatasetInfo
    from medfuse.data.fingerprint import Fingerprint
    from medfuse.data.plan import DataPlan
    from medfuse.data.store import Store
    from medfuse.infer.settings import InferSettings
    from medfuse.pipeline import Pipeline
    from medfuse.runs.looking import Label
    from medfuse.runs.training import Begun

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
_AT_ONCE = 4
MOST_TRAINING, MOST_JUDGING = 32, 6
"""Cases that rungs learn from, and are judged by."""
MOST_PAIRED = 12
"""Cases by which two plans are compared, where the difference is what is asked for."""
CLEARLY = 0.02
"""Dice by which a later candidate has to be better than an earlier one, as rungs are short and prefer what is
quick to learn."""


@dataclass(frozen=True)
class Rung:
    """One short training of a candidate: its seconds, its steps, and the Dice of inner held-out cases.

    That is at the probabilities at which it is highest, as a short training makes a network sure of little.
    `cases`: the same of each by itself.
    """

    candidate: int
    seconds: float
    steps: int
    dice: float
    cases: Mapping[str, float] = field(default_factory=dict)


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


Train = Callable[[int, float], Rung]
"""(candidate, seconds) → what its training came to. Raises something where it cannot be trained."""


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
                rung = train(candidate, each)
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


@dataclass
class Bed:
    """Where candidates are trained: pipelines as texts, an inner split, and a folder that goes away.

    They are judged on one grid, that of `reference`, as labels of a coarser one are easier to find.
    """

    info: DatasetInfo
    fingerprint: Fingerprint
    split: Split
    reference: DataPlan
    texts: Sequence[str]
    base: Path
    precision: str
    device: str
    folder: Path
    _trained: int = 0

    def prepare(self, seconds: float) -> bool:
        """Prepare cases for every candidate; those that learn until the time is over.

        False where these are too few to tell anything.
        """
        began, cases = time.monotonic(), {case.name: case for case in self.info.cases}
        plans = [self.reference, *(self._plan(self._pipeline(text, 1.0)) for text in self.texts)]
        first, more = self.split.validation[:MOST_JUDGING], self.split.validation[MOST_JUDGING:]
        names = [*first, *self.split.train, *more]
        ready: list[str] = []
        over = False
        while len(ready) < len(names) and not over:
            some = names[: len(ready) + _AT_ONCE]
            for plan in plans:
                over = over or time.monotonic() - began >= seconds
                if not over:
                    self._store([cases[name] for name in some], plan)
            ready = ready if over else some
        judging = [name for name in ready if name in self.split.validation]
        learning = [name for name in ready if name in self.split.train]
        enough = min(FEWEST_TRAINING, len(self.split.train))
        self.split = Split(tuple(learning), tuple(judging))
        return bool(judging) and len(learning) >= max(1, enough)

    def train(self, candidate: int, seconds: float) -> Rung:
        """Raises MedfuseError where the pipeline, its graph or its training fails."""
        from medfuse.runs.run import Run
        from medfuse.runs.training import begin
        from medfuse.train.loop import fit
        from medfuse.train.together import Together

        self._trained += 1
        pipeline = self._pipeline(self.texts[candidate], seconds)
        folder = make_folder(self.folder / f"{self._trained}")
        quiet = Reporter(quiet=True)
        run = Run(pipeline, self.info, self.split, folder, self.folder, quiet, Together())
        plan = self._plan(pipeline)
        graph = plan_network(pipeline, plan.image, len(plan.classes))
        store = self._store(run.cases.values(), plan)
        begun = begin(run, plan, graph, store)
        scores: dict[str, float] = {}
        cases: dict[str, float] = {}

        def judge(network: nn.Module) -> Mapping[str, float]:
            scores["dice"] = self._dice(network, plan, store, begun, pipeline.infer, cases)
            return scores

        done = fit(
            begun.model,
            fabric=begun.fabric,
            settings=pipeline.train,
            objective=begun.objective,
            batches=begun.batches,
            validate=judge,
            save=lambda *_: None,
            folder=folder,
            reporter=quiet,
            seed=pipeline.seed,
        )
        return Rung(candidate, seconds, done.step, scores["dice"], cases)

    def _pipeline(self, text: str, seconds: float) -> Pipeline:
        """A candidate's own file, on the inner split, with a budget of its own, looked at once."""
        document = Document.parse(text, source="candidate", base=self.base)
        pipeline = parse_pipeline(document, default_name="candidate")
        train = pipeline.train.model_copy(
            update={
                "minutes": seconds / 60,
                "steps_per_epoch": 10**9,
                "state_every": 10**9,
                "precision": self.precision,
                "device": self.device,
            }
        )
        return pipeline.model_copy(update={"train": train})

    def _plan(self, pipeline: Pipeline) -> DataPlan:
        from medfuse.data.plan import make_plan
        from medfuse.runs.weights import advice, origins

        asked = advice(pipeline, origins(pipeline), self.info.channels)
        return make_plan(self.fingerprint, self.info, pipeline.preprocess, pipeline.sample, asked)

    def _store(self, cases: Iterable[Case], plan: DataPlan) -> Store:
        from medfuse.data.prepare import Preprocessor
        from medfuse.data.settings import PreprocessSettings
        from medfuse.data.store import Store

        hashes = {file: digest for case in self.fingerprint.cases for file, digest in case.files.items()}
        wanted = [case for case in cases if case.name in {*self.split.train, *self.split.validation}]
        store = Store(self.folder / "prepared")
        preprocessor = Preprocessor(plan, PreprocessSettings().tolerance_mm)
        store.build(wanted, preprocessor, hashes, progress=lambda done, total: None)
        return store

    def _dice(
        self,
        network: nn.Module,
        plan: DataPlan,
        store: Store,
        begun: Begun,
        infer: InferSettings,
        cases: dict[str, float],
    ) -> float:
        """That of the inner held-out cases, on the grid of the reference (see ripe_dice); that of each that
        has a label goes into `cases`."""
        from medfuse.runs.looking import logits_of, ripe_dice

        names = self.split.validation
        truth = self._store([case for case in self.info.cases if case.name in names], self.reference)
        pairs = ((store.read_case(name)[0], truth.read_case(name)[1]) for name in names)
        fabric = begun.fabric
        made = logits_of(network, pairs, plan, infer, fabric.device, fabric.autocast)

        def each() -> Iterator[tuple[Tensor, Label]]:
            for name, one in zip(names, made):
                if one[1].any():
                    cases[name] = ripe_dice([one], plan)
                yield one

        return ripe_dice(each(), plan)
