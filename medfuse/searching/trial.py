"""A trial: one pipeline trained to a rung in its run folder, and judged by cases that it did not see."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.core.reporter import Reporter
from medfuse.pipeline import Pipeline, plan_network
from medfuse.searching.journal import Told

if TYPE_CHECKING:
    from medfuse.api import DatasetInfo
    from medfuse.data.fingerprint import Fingerprint
    from medfuse.data.plan import DataPlan
    from medfuse.model.verify import Verified
    from medfuse.runs.run import Run
    from medfuse.train.settings import TrainSettings


@dataclass
class Bench:
    """What trials share: the dataset, what is known of its files, the folder of all runs, verified graphs.

    `reference`: the plan of trial 0; all are judged on its grid, as a coarser one would be easier.
    """

    info: DatasetInfo
    seen: Fingerprint
    runs: Path
    verified: Verified
    reference: DataPlan | None = None

    def train(self, pipeline: Pipeline, folder: Path, number: int, rung: int, whole: TrainSettings) -> Told:
        """Train it as far as its budget says, from wherever its folder stands, and judge it.

        `whole` is what it has at the last rung, by which a finite set of patches is chosen.

        Raises MedfuseError where it cannot be trained.
        """
        from medfuse.runs.run import open_run
        from medfuse.runs.stages import filled_store, prepare
        from medfuse.runs.tracking import Trackers
        from medfuse.runs.training import train
        from medfuse.train.state import how_far
        from medfuse.train.together import Together

        began, quiet = time.monotonic(), Reporter(quiet=True)
        with open_run(pipeline, self.info, self.runs, folder, quiet, Together()) as run:
            run = replace(run, whole=whole)
            planned = prepare(run, self.seen, verified=self.verified)
            graph = plan_network(pipeline, planned.plan.image, len(planned.plan.classes))
            with filled_store(run, planned) as store:
                train(run, planned, graph, store, Trackers(run, planned.standing.step))
                judged = self._judge(run, planned.plan, store)
            stands = how_far(folder)
        return Told(
            number=number,
            rung=rung,
            steps=stands.step,
            trained=round(stands.seconds, 3),
            seconds=round(time.monotonic() - began, 3),
            **judged,
        )

    def _judge(self, run: Run, plan: DataPlan, store: Any) -> dict[str, Any]:
        """Dice of the cases to choose by, on the grid of the reference, and what a case costs."""
        from medfuse.core.memory import memory_growth
        from medfuse.runs.looking import dice_of, logits_of, ripe_dice
        from medfuse.trained.loading import load_trained

        trained = load_trained(
            [run.folder / "weights_last.safetensors"],
            device=run.pipeline.train.device,
            settings=run.pipeline.infer,
            own=run.pipeline.model,
        )
        network, names = trained.segmenter(), run.split.validation
        truth = self._truth(run, store)
        pairs = ((store.read_case(name)[0], truth(name)) for name in names)
        found: dict[str, list[float]] = {}
        cases: dict[str, float] = {}
        seconds: list[float] = []

        def watched(made: Iterator[Any]) -> Iterator[Any]:
            for name in names:
                began = time.perf_counter()
                logits, label = next(made)
                seconds.append(time.perf_counter() - began)
                scores = dice_of([(logits, label)], plan)
                for which, values in scores.items():
                    found.setdefault(which, []).extend(values)
                known = [value for values in scores.values() for value in values]
                if known:
                    cases[name] = sum(known) / len(known)
                yield logits, label

        with _without_gradients(), memory_growth(trained.device) as growth:
            made = logits_of(network, pairs, plan, run.pipeline.infer, trained.device, _no_autocast)
            ripe = ripe_dice(watched(made), plan)
            memory = growth()
        weights = sum(p.numel() * p.element_size() for p in network.parameters())
        means = {which: sum(values) / len(values) for which, values in found.items()}
        return {
            "dice": sum(means.values()) / len(means) if means else 0.0,
            "ripe": ripe,
            "labels": means,
            "seconds_per_case": sorted(seconds)[len(seconds) // 2],
            "memory": memory + weights,
            "parameters": sum(p.numel() for p in network.parameters()),
            "cases": cases,
        }

    def _truth(self, run: Run, store: Any) -> Callable[[str], Any]:
        """Name → the label of a case on the grid of the reference."""
        from medfuse.data.prepare import Preprocessor
        from medfuse.data.settings import PreprocessSettings
        from medfuse.data.store import Store

        if self.reference is None:
            return lambda name: store.read_case(name)[1]
        hashes = {file: digest for case in self.seen.cases for file, digest in case.files.items()}
        same = Store(run.store_folder)
        preprocessor = Preprocessor(self.reference, PreprocessSettings().tolerance_mm)
        cases = [run.cases[name] for name in run.split.validation]
        same.build(cases, preprocessor, hashes, progress=lambda done, total: None)
        return lambda name: same.read_case(name)[1]


def _no_autocast() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def _without_gradients() -> Any:
    import torch

    return torch.inference_mode()
