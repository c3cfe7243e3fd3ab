"""The teacher of a distillation: which run it is, what its file says, and what a student is shown for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.core.errors import CheckpointError, MedfuseError
from medfuse.core.files import file_hash
from medfuse.core.text import listed
from medfuse.model.plan import GraphPlan
from medfuse.pipeline import Pipeline
from medfuse.runs.folder import fold_folders
from medfuse.runs.records import Record, read_record
from medfuse.trained.loading import EXPORTED, graph_of, read_weights, weights_file

if TYPE_CHECKING:
    from medfuse.data.plan import DataPlan

RECORD = "teacher.json"


@dataclass(frozen=True)
class Teacher:
    """A trained network as its file describes it."""

    weights: Path
    plan: DataPlan
    graph: GraphPlan


def teacher_weights(pipeline: Pipeline) -> Path | None:
    """The weights of the teacher, where a pipeline has one: of a cross-validation those of the same fold.

    Raises CheckpointError.
    """
    settings = pipeline.train.teacher
    if settings is None:
        return None
    folder, folds = settings.run, fold_folders(settings.run) if settings.run.is_dir() else []
    if folds and not any(folder.glob("weights_*.safetensors")):
        folder = folder / f"fold_{pipeline.split.fold}"
        if not folder.is_dir():
            raise CheckpointError(
                f"{settings.run}: holds {', '.join(fold.name for fold in folds)}, and this run is of fold "
                f"{pipeline.split.fold}; choose one of these folds, as each teacher must not know the cases "
                "that its student is judged by"
            )
    found = weights_file(folder, best=False)
    if found.suffix in EXPORTED.values():
        raise CheckpointError(
            f"{found}: was exported, and cannot be looked into; give the run that it comes from"
        )
    return found


def read_teacher(pipeline: Pipeline) -> Teacher | None:
    """What is known of the teacher without making its network. Raises MedfuseError."""
    path = teacher_weights(pipeline)
    if path is None:
        return None
    settings = pipeline.train.teacher
    assert settings is not None
    return _read(path, path.stat().st_mtime_ns, settings.trust or ())


@lru_cache(maxsize=4)
def _read(path: Path, changed: int, trust: tuple[str, ...]) -> Teacher:
    from medfuse.trained.facts import read_facts

    return Teacher(path, read_facts(path, read_weights(path)[1]).plan, graph_of(path, trust))


def hash_of_teacher(pipeline: Pipeline) -> str | None:
    """SHA-256 of its weights; None where there is none, or it is gone."""
    try:
        path = teacher_weights(pipeline)
    except CheckpointError:  # who trains says so
        return None
    return file_hash(path) if path else None


def shown_alike(pipeline: Pipeline) -> Pipeline:
    """A student's pipeline, which prepares images as for its teacher where it leaves that open; any other as
    it is."""
    said, teacher = pipeline.preprocess, _readable(pipeline)
    if teacher is None:
        return pipeline
    theirs = {"spacing_mm": teacher.plan.spacing_mm, "normalize": teacher.plan.normalize}
    left_open = {key: value for key, value in theirs.items() if getattr(said, key) == "auto"}
    return pipeline.model_copy(update={"preprocess": said.model_copy(update=left_open)})


def with_its_numbers(plan: DataPlan, pipeline: Pipeline) -> DataPlan:
    """A student's plan, with the teacher's numbers of each normalisation, which its dataset's may not quite
    be, and with why it has them."""
    teacher = _readable(pipeline)
    if teacher is None or teacher.plan.channels != plan.channels:
        return plan
    reasons, why = dict(plan.reasons), f"as its teacher, {teacher.weights.parent.name}, was trained"
    if pipeline.preprocess.spacing_mm == "auto":
        reasons["spacing_mm"] = why
    kinds = [[how.kind for how in one.normalization] for one in (plan, teacher.plan)]
    if pipeline.preprocess.normalize == "auto":
        reasons |= {f"normalize.{channel}": why for channel in plan.channels}
    if pipeline.preprocess.normalize == "auto" or kinds[0] == kinds[1]:
        plan = replace(plan, normalization=teacher.plan.normalization)
    return replace(plan, reasons=reasons)


def _readable(pipeline: Pipeline) -> Teacher | None:
    """The teacher; None also where it cannot be read, which is told with all else that is wrong."""
    try:
        return read_teacher(pipeline)
    except MedfuseError:
        return None


class TeacherRecord(Record):
    """teacher.json: who taught a run, and what. maps: the student's → the teacher's."""

    run: str
    sha256: str
    parameters: int
    weight: float
    temperature: float
    maps: dict[str, str]
    maps_weight: float
    distance: str

    @property
    def taught(self) -> bool:
        """Whether anything was learned from it."""
        return bool(self.weight or (self.maps and self.maps_weight))

    def note(self) -> str:
        """A line for the summary and the report."""
        who = f"{self.run} ({self.parameters:,} parameters, weights SHA-256 {self.sha256[:12]}…)"
        if not self.taught:
            return f"images are scaled as for {who}, and nothing was learned from it"
        return f"taught by {who}: besides labels it learned {self._what()}; none of it is in the weights"

    def foretold(self) -> str:
        """The same before training, in short."""
        return f"taught by {self.run}: {self._what()}" if self.taught else f"scaled as for {self.run}"

    def _what(self) -> str:
        learned = [
            *([f"its probabilities at temperature {self.temperature:g}"] if self.weight else []),
            *([f"its maps {listed([*self.maps.values()])}"] if self.maps and self.maps_weight else []),
        ]
        return " and ".join(learned)


def taught_note(folder: Path) -> tuple[str, ...]:
    """What a run's summary says of its teacher in a line; nothing where it has none."""
    path = folder / RECORD
    return (read_record(TeacherRecord, path).note(),) if path.exists() else ()


def recorded_teacher(folder: Path) -> dict[str, Any] | None:
    """The same as values."""
    path = folder / RECORD
    return read_record(TeacherRecord, path).model_dump(mode="json") if path.exists() else None
