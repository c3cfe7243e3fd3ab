"""Trainings that workers share: each is a run in a folder of its own, as `medfuse run` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from medfuse.core.errors import DataError
from medfuse.core.leading import lead
from medfuse.core.reporter import Reporter
from medfuse.core.tasks import FOLDER, Kind, Task, faults
from medfuse.runs.folder import STATES, forget_judgement
from medfuse.verbs.crews import Workers
from medfuse.verbs.run import RunResult, run_pipeline

KIND = "train"


class Training(BaseModel):
    """What `run_pipeline` is given, but its reporter.

    within: the folder whose judgement is none any more once this is trained anew.
    """

    model_config = ConfigDict(frozen=True)

    file: Path
    overrides: tuple[str, ...]
    runs: Path
    folder: Path
    retrain: bool = False
    max_disk: int | None = None
    within: Path | None = None


def done(training: Training, reporter: Reporter) -> RunResult:
    """It, from wherever it stands."""
    how = dict(training)
    within = how.pop("within")
    result = run_pipeline(how.pop("file"), how.pop("overrides"), **how, reporter=reporter)
    if training.retrain and within:
        forget_judgement(within)
    return result


def train(given: Mapping[str, Any], reporter: Reporter) -> Mapping[str, Any]:
    """The same as a task: what the run has to say, as JSON."""
    from medfuse.report.evaluate import Evaluation

    result = done(Training.model_validate(given), reporter)
    said = TypeAdapter(Evaluation).dump_python(result.evaluation, mode="json")
    return {"folder": str(result.folder), "evaluation": said, "postprocess": result.postprocess}


def how_far(given: Mapping[str, Any]) -> str:
    """When it was last able to carry on from where it was."""
    folder = Training.model_validate(given).folder
    return " ".join(str((folder / name).stat().st_mtime_ns) for name in STATES if (folder / name).exists())


TRAININGS = Kind(train, how_far)


def train_all(
    trainings: Mapping[str, Training],
    folder: Path,
    workers: Workers,
    *,
    what: str,
    device: str = "auto",
    instead: str,
    reporter: Reporter,
) -> dict[str, RunResult]:
    """What each has made, by its name: one after another, or by workers that agree in `folder`.

    `what`: they are called, in the plural. `device`: that they train on. `instead`: see `lead`. Raises what
    the first one does that fails; of workers DataError with the reasons of all that have failed, once the
    others are done.
    """
    if not trainings:
        return {}
    if workers.are_others:
        return _shared(trainings, folder, workers, what, device, instead, reporter)
    results: dict[str, RunResult] = {}
    for name, one in trainings.items():
        reporter.say(f"{name}:")
        results[name] = done(one, reporter)
    return results


def _shared(
    trainings: Mapping[str, Training],
    folder: Path,
    workers: Workers,
    what: str,
    device: str,
    instead: str,
    reporter: Reporter,
) -> dict[str, RunResult]:
    tasks = [Task(name=name, given=one.model_dump(mode="json")) for name, one in trainings.items()]
    start = workers.starter(["work", str(folder.resolve()), "--quiet"], folder / FOLDER, device)
    records = lead(folder, KIND, tasks, start, workers.count, what=what, reporter=reporter, instead=instead)
    if lines := faults(tasks, records):
        finished = sum(record["state"] == "done" for record in records.values())
        again = "run the same command to carry on"
        raise DataError(*lines, f"{finished} of {len(tasks)} {what} are done; {again}")
    return {task.name: _result(records[number]["made"]) for number, task in enumerate(tasks)}


def _result(made: Mapping[str, Any]) -> RunResult:
    from medfuse.report.evaluate import Evaluation

    evaluation = TypeAdapter(Evaluation).validate_python(made["evaluation"])
    return RunResult(Path(made["folder"]), evaluation, tuple(made["postprocess"]))
