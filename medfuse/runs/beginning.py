"""The moment before the first step: records are written, or a run that goes on says and notes how it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.api import Split
from medfuse.core.errors import CheckpointError
from medfuse.core.files import write_json, write_text
from medfuse.core.json_text import validated
from medfuse.model.plan import GraphPlan
from medfuse.pipeline import Pipeline
from medfuse.runs import frozen_set
from medfuse.runs.folder import clear, forget_judgement
from medfuse.runs.records import (
    DATA,
    FINGERPRINT,
    LOCK,
    PINNED,
    PIPELINE,
    PLAN,
    RESOLVED,
    Lock,
    Stretch,
    TrainedOn,
    read_record,
    resolved_text,
)
from medfuse.train.budget import Budget
from medfuse.train.settings import TrainSettings

if TYPE_CHECKING:
    from medfuse.data.fingerprint import Fingerprint
    from medfuse.data.plan import DataPlan
    from medfuse.runs.run import Run
    from medfuse.train.state import Spent

_POINTS = 21  # of a course, at which a schedule is looked at


@dataclass(frozen=True)
class Planned:
    """What is known of a run before it is trained.

    hashes: path → SHA-256 of every file of its cases. standing: how far its training has come. shown: case →
    the label map of a first stage that the network is shown.
    """

    split: Split
    plan: DataPlan
    fingerprint: Fingerprint
    hashes: Mapping[str, str]
    data: TrainedOn
    standing: Spent
    shown: Mapping[str, Path] = field(default_factory=dict)


def write_records(run: Run, planned: Planned, graph: GraphPlan, found: Mapping[str, Any]) -> None:
    """For a training that starts: what stood in the folder is replaced by what this one is.

    `found`: file → what was found out while it was set up.
    """
    clear(run.folder)
    lock = Lock.now(run.pipeline, planned.hashes)
    files = {
        PLAN: {"data": planned.plan.to_json(), "graph": graph.rows()},
        FINGERPRINT: planned.fingerprint.to_json(),
        DATA: planned.data.model_dump(mode="json"),
        LOCK: lock.model_dump(mode="json"),
        PIPELINE: run.identity,
        **({PINNED: run.pins.model_dump(mode="json")} if run.pins else {}),
        **found,
    }
    for name, content in files.items():
        write_json(run.folder / name, content)
    pipeline = _decided(run.pipeline, found)
    write_text(run.folder / RESOLVED, resolved_text(pipeline, planned.plan, planned.split, lock.stretches))


def note_stretch(run: Run, planned: Planned, found: Mapping[str, Any]) -> None:
    """For a training that goes on: how it does, where that is not as before. What judged its weights goes."""
    forget_judgement(run.folder)
    for name, content in found.items():
        write_json(run.folder / name, content)
    lock, now = read_record(Lock, run.folder / LOCK), Stretch.now(run.pipeline, planned.standing.step)
    before = lock.stretches[-1]
    if now.is_like(before):
        return
    for line in budget_change(_settings(run, before), run.pipeline, planned.standing):
        run.reporter.say(line)
    lock = lock.carried_on(now)
    write_json(run.folder / LOCK, lock.model_dump(mode="json"))
    pipeline = _decided(run.pipeline, found)
    write_text(run.folder / RESOLVED, resolved_text(pipeline, planned.plan, planned.split, lock.stretches))


def _decided(pipeline: Pipeline, found: Mapping[str, Any]) -> Pipeline:
    """With the numbers of the finite set of patches, where the pipeline left them open."""
    settings, record = pipeline.train.frozen_maps, found.get(frozen_set.RECORD)
    if settings is None or record is None:
        return pipeline
    numbers = {key: record[key] for key in ("patches", "views")}
    train = pipeline.train.model_copy(update={"frozen_maps": settings.model_copy(update=numbers)})
    return pipeline.model_copy(update={"train": train})


def budget_change(before: TrainSettings, pipeline: Pipeline, standing: Spent) -> list[str]:
    """What another budget means for a training that stands somewhere; nothing where it is the same one."""
    from medfuse.train.optimizer import peak_rate, rate_factor

    settings = pipeline.train
    was, now = Budget.of(before), Budget.of(settings)
    if was == now:
        return []
    shares = [budget.progress(standing.step, standing.seconds) for budget in (was, now)]
    follows = []
    if settings.decay != "none" or settings.warmup:
        old, new = (peak_rate(settings) * rate_factor(share, settings) for share in shares)
        follows.append(f"the learning rate ({old:.2g} → {new:.2g})")
    if not _aux_is_constant(pipeline, was, now):
        follows.append("the weights of auxiliary heads")
    if settings.pseudo_labels:
        follows.append("the weight of pseudo-labels")
    if settings.guided and settings.guided.begin:
        follows.append("the begin of guided augmentation")
    line = f"the budget was {was} and is {now}; training goes on from step {standing.step}"
    if follows:
        what = f"these follow the new budget from here: {', '.join(follows)}"
        return [f"{line}: {what}; one training of {now} would have had them from its start"]
    if now.steps is None:
        return [line]
    return [f"{line}: nothing else depends on it, so the weights become those of one training of {now}"]


def _aux_is_constant(pipeline: Pipeline, *budgets: Budget) -> bool:
    aux = pipeline.model.aux
    if aux is None or (schedule := aux.schedule) is None:
        return True
    from medfuse.train.held_schedules import head_weights

    found = {
        head_weights(schedule, *budget.schedule_step(point / (_POINTS - 1)), len(aux.heads))
        for budget in budgets
        for point in range(_POINTS)
    }
    return len(found) == 1


def _settings(run: Run, stretch: Stretch) -> TrainSettings:
    return validated(
        TrainSettings,
        dict(stretch.train),
        str(run.folder / LOCK),
        raises=CheckpointError,
        remedy="put the file back as it was, or train this run anew with --retrain",
    )
