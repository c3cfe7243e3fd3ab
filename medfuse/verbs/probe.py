"""`medfuse probe`: a learning rate, and whether one case can be learned by heart, before hours are spent."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.api import Split
from medfuse.core.errors import DataError, PipelineError, Problem, did_you_mean
from medfuse.core.files import claimed, make_folder, remove_leftovers
from medfuse.core.reporter import Reporter
from medfuse.pipeline import Pipeline, load_pipeline, plan_network
from medfuse.runs.folder import PROBE
from medfuse.runs.run import Run, located, open_run, read_dataset
from medfuse.runs.stages import filled_store, prepare
from medfuse.runs.tracking import Trackers
from medfuse.runs.training import begin, train

if TYPE_CHECKING:
    from medfuse.data.fingerprint import Fingerprint
    from medfuse.train.rate import RateSweep

_LEARNED, _FALLEN = 0.8, 0.5  # the Dice, and the share of the first loss, that count as such


@dataclass(frozen=True)
class Probed:
    """What was found. `losses` and `dices` are those on the one case, in order of time."""

    sweep: RateSweep
    rate: float
    case: str
    steps: int
    losses: tuple[float, ...]
    dices: tuple[float, ...]

    @property
    def verdict(self) -> str:
        if self.dices and self.dices[-1] >= _LEARNED:
            return "it can be learned by heart, so data, network and loss fit together"
        if self.losses[-1] < _FALLEN * self.losses[0]:
            return "the loss falls, and Dice does not follow yet: give it more --steps"
        return "it is not learned: try the learning rate above, more --steps, and look at this case's label"

    def values(self) -> dict[str, Any]:
        """The same for programs."""
        sweep = {"best": self.sweep.best, "rates": self.sweep.rates, "losses": self.sweep.losses}
        return {
            "learning_rate": {**sweep, "diverges": self.sweep.diverges, "of_the_file": self.rate},
            "case": self.case,
            "steps": self.steps,
            "losses": self.losses,
            "dices": self.dices,
            "verdict": self.verdict,
        }

    def text(self) -> str:
        sweep = self.sweep
        diverges = f", diverges at {sweep.diverges:.2g}" if sweep.diverges else ""
        low = sweep.rates[sweep.losses.index(min(sweep.losses))]
        dices = f", Dice {self.dices[0]:.3f} → {self.dices[-1]:.3f}" if self.dices else ""
        return "\n".join(
            [
                f"learning rate: loss falls fastest at {sweep.best:.2g}, is lowest at {low:.2g}{diverges}",
                f"  train.learning_rate is {self.rate:g}",
                f"{self.case}, {self.steps} steps: loss {self.losses[0]:.3f} → {self.losses[-1]:.3f}{dices}",
                f"  {self.verdict}",
            ]
        )


def probe_pipeline(
    file: Path,
    overrides: Iterable[str] = (),
    *,
    runs: Path = Path("runs"),
    steps: int = 200,
    case: str | None = None,
    reporter: Reporter,
) -> Probed:
    """Sweep the learning rate over training batches, then train on one case without augmentation.

    Prepared cases stay in `runs`, as a run finds them again; all else is removed.
    """
    pipeline, document = load_pipeline(file, overrides)
    if pipeline.cascade and pipeline.cascade.shown:
        message = "shows the second stage label maps that only a run makes; probe it with cascade.shown=false"
        raise document.located(PipelineError([Problem(("cascade", "shown"), message)]))
    from medfuse.train.log import read_rows
    from medfuse.train.optimizer import peak_rate
    from medfuse.train.rate import sweep_rates
    from medfuse.train.together import Together

    remove_leftovers(make_folder(runs), PROBE)
    with (
        located(document),
        tempfile.TemporaryDirectory(dir=runs, prefix=PROBE) as folder,
        claimed(Path(folder)),
    ):
        info = read_dataset(pipeline)
        still = _still(pipeline, Path(folder).name, steps)
        with open_run(still, info, runs, runs / still.name, reporter, Together()) as run:
            planned = prepare(run)
            plan = planned.plan
            graph = plan_network(still, plan.image, len(plan.classes))
            chosen = _choose(case, replace(run, split=planned.split), planned.fingerprint)
            run = replace(run, split=Split((chosen,), (chosen,)))
            with filled_store(run, planned) as store:
                begun = begin(run, plan, graph, store)
                reporter.say("sweeping the learning rate")
                sweep = sweep_rates(
                    begun.model,
                    fabric=begun.fabric,
                    settings=still.train,
                    objective=begun.objective,
                    batches=begun.batches,
                    depths=begun.depths,
                )
                train(run, planned, graph, store, Trackers(run, 0))
                rows = read_rows(run.folder / "metrics.jsonl")
    losses = tuple(row["loss"] for row in rows if "loss" in row)
    dices = tuple(row["dice"] for row in rows if "dice" in row)
    return Probed(sweep, peak_rate(still.train), chosen, steps, losses, dices)


def _still(pipeline: Pipeline, name: str, steps: int) -> Pipeline:
    """The same pipeline without what hides whether a network can learn at all."""
    augment = pipeline.augment.without_any()
    budget = {"steps": steps, "epochs": None, "minutes": None, "steps_per_epoch": max(1, steps // 4)}
    off = dict.fromkeys(("pseudo_labels", "guided", "frozen_maps"))
    train = pipeline.train.model_copy(update={**budget, **off})
    return pipeline.model_copy(update={"name": name, "augment": augment, "train": train, "track": ()})


def _choose(wanted: str | None, run: Run, fingerprint: Fingerprint) -> str:
    """A training case, by default the first that has foreground. Raises DataError."""
    names = [*run.split.train]
    if wanted is not None:
        if wanted not in names:
            raise DataError(f"no training case is named {wanted!r}{did_you_mean(wanted, names)}")
        return wanted
    foreground = {name for name, value in run.info.labels.items() if value != 0}
    filled = {c.name for c in fingerprint.cases if any(c.volumes_ml.get(n, 0) > 0 for n in foreground)}
    return next((name for name in names if name in filled), names[0])
