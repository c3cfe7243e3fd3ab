"""Where candidates are trained for real: cases prepared, a short training, its Dice on cases kept apart."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.api import Case, Split
from medfuse.core.document import Document
from medfuse.core.files import make_folder
from medfuse.core.reporter import Reporter
from medfuse.pipeline import parse_pipeline, plan_network
from medfuse.planning.trials import FEWEST_TRAINING, MOST_JUDGING, Rung

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

_AT_ONCE = 4


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

    def train(self, candidate: int, seconds: float, repeat: int = 0) -> Rung:
        """Raises MedfuseError where the pipeline, its graph or its training fails. `repeat`: other seeds."""
        from medfuse.runs.run import Run
        from medfuse.runs.training import begin
        from medfuse.train.loop import fit
        from medfuse.train.together import Together

        self._trained += 1
        pipeline = self._pipeline(self.texts[candidate], seconds)
        pipeline = pipeline.model_copy(update={"seed": pipeline.seed + repeat})
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
        return Rung(candidate, seconds, done.step, scores["dice"], cases, repeat)

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
