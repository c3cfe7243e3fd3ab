"""The end of a search: what was chosen and what was written are trained anew, and judged by unseen cases."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfuse.core.lock import InUse, locked
from medfuse.core.reporter import Reporter
from medfuse.pipeline import Pipeline
from medfuse.searching.begin import OUTER
from medfuse.searching.budget import seeds_of
from medfuse.searching.study import Study

BASELINE, CHOSEN = "as written", "chosen"


@dataclass(frozen=True)
class Training:
    """One of the last trainings."""

    whose: str
    trial: int
    seed: int
    pipeline: Pipeline
    folder: Path

    @property
    def is_done(self) -> bool:
        return (self.folder / "summary.json").exists()


def trainings(study: Study) -> list[Training]:
    """Of the file as written and, where that is not the best itself, of the best trial; seed by seed."""
    asked = study.journal.asked()
    whose = {BASELINE: asked[0]}
    if chosen := study.chosen():
        whose[CHOSEN] = asked[chosen]
    written = study.gate.space.combine({}).pipeline
    made = []
    for seed in seeds_of(study.settings, written):
        for name, one in whose.items():
            trial = study.pipeline_of(one, len(study.budget.amounts) - 1)
            own = study.gate.admit(one.values).pipeline
            split = trial.split.model_copy(update={"file": (study.journal.folder / OUTER).resolve()})
            settings: dict[str, Any] = {"validation_cases": own.train.validation_cases}
            if study.precision and own.train.precision == "auto":
                settings["precision"] = study.precision
            pipeline = trial.model_copy(
                update={
                    "name": f"trial-{one.number:04d}-seed{seed}",
                    "seed": seed,
                    "split": split,
                    "train": trial.train.model_copy(update=settings),
                }
            )
            made.append(
                Training(name, one.number, seed, pipeline, study.journal.folder / "final" / pipeline.name)
            )
    return made


def train_all(study: Study) -> list[Training]:
    """Until all are done, whoever does them."""
    while left := [one for one in trainings(study) if not one.is_done]:
        if not any(_train(study, one) for one in left):
            time.sleep(1.0)
    return trainings(study)


def _train(study: Study, training: Training) -> bool:
    """Whether nobody else is at it, and it is done now."""
    from medfuse.runs.run import open_run
    from medfuse.runs.stages import do_stages
    from medfuse.train.together import Together

    held = training.folder.with_name(f"{training.folder.name}.held")
    held.mkdir(parents=True, exist_ok=True)
    try:
        with locked(held):
            if training.is_done:
                return True
            study.reporter.say(
                f"{training.pipeline.name}: trained anew, judged by cases that no trial has seen"
            )
            quiet = Reporter(quiet=True)
            bench = study.bench
            with open_run(
                training.pipeline, bench.info, bench.runs, training.folder, quiet, Together()
            ) as run:
                do_stages(run, bench.seen)
    except InUse:
        return False
    return True


def folders(done: list[Training], whose: str) -> Iterator[Path]:
    yield from (one.folder for one in done if one.whose == whose)


def judged_before(study: Study) -> list[int]:
    """Trials other than the one that is chosen now that unseen cases have judged already."""
    found = {int(path.name[6:10]) for path in (study.journal.folder / "final").glob("trial-*-seed*[0-9]")}
    return sorted(found - {0, study.chosen()})
