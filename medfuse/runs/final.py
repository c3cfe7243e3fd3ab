"""The final model: every labelled case trains it, nothing judges it, and its cross-validation tells of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from medfuse.core.errors import CheckpointError
from medfuse.core.files import reported
from medfuse.core.json_text import read_json, validated
from medfuse.core.text import number
from medfuse.infer.settings import USUAL_OVERLAP
from medfuse.pipeline import resolved
from medfuse.report.intervals import Interval
from medfuse.runs import overlap
from medfuse.runs.changes import case_changes, pipeline_changes, text_changes
from medfuse.runs.folder import FOLD_ALL, fold_folders
from medfuse.runs.postprocess import FILE, read_choice, said, write_choice
from medfuse.runs.records import DATA, LOCK, PIPELINE, Lock, TrainedOn, read_mapping, read_record

if TYPE_CHECKING:
    from medfuse.report.evaluate import Evaluation
    from medfuse.runs.run import Run

_BUDGET = ("epochs", "steps", "minutes")
_REMEDY = "run the cross-validation again, which writes it anew"


def unjudged(run: Run) -> tuple[Evaluation, tuple[str, ...]]:
    """No case, with notes that say so and what may be quoted instead; and the postprocessing that it gets.

    That is the one which the cross-validation beside it chose, where there is one of this very model.
    """
    from medfuse.data.split import nothing_held_out
    from medfuse.report.evaluate import Evaluation
    from medfuse.report.metrics import NSD_TOLERANCE_MM

    beside = cross_validation(run)
    labels = {name: value for name, value in run.info.labels.items() if value != 0}
    notes = (nothing_held_out(run.split), beside.expectation())
    chosen = (*_postprocess(run, beside), *_overlap(run, beside))
    return Evaluation((), labels, NSD_TOLERANCE_MM, notes=notes), chosen


@dataclass(frozen=True)
class CrossValidation:
    """The one in `folder`: its summary.json, or where it tells nothing of a model, why (`fault`)."""

    folder: Path
    summary: Mapping[str, Any]
    fault: str = ""

    def expectation(self) -> str:
        from medfuse.report.summary import foreground_text

        if self.fault:
            return (
                f"{self.fault}; `medfuse run FILE --folds all` with this pipeline tells what to expect, "
                "and its Dice may be quoted"
            )
        std, folds = self.summary["between_folds"]["foreground_mean"]["std"], len(self.summary["folds"])
        spread = "" if std is None else f" ± {number(std)}"
        return (
            "on new cases expect about the Dice of its cross-validation, which may be quoted: mean "
            f"foreground Dice {foreground_text(self.summary)}{spread}, {folds} fold{'s' * (folds != 1)}, "
            f"{self.folder / 'summary.json'}"
        )


def cross_validation(run: Run) -> CrossValidation:
    """The one beside the final model `run`, which stands in the same folder as its folds."""
    return _beside(run.folder, run.identity, resolved(run.pipeline)["train"])


def cross_validation_of(folder: Path) -> CrossValidation:
    """As `cross_validation`, of a run that is in `folder`, by its records."""
    try:
        train = read_record(Lock, folder / LOCK).stretches[-1].train
        return _beside(folder, read_mapping(folder / PIPELINE), train)
    except CheckpointError as error:
        return CrossValidation(folder.parent, {}, error.lines[0])


def _beside(own: Path, identity: Mapping[str, Any], train: Mapping[str, Any]) -> CrossValidation:
    folder = own.parent
    folds = fold_folders(folder) if own.name == FOLD_ALL else []
    path = folder / "summary.json"
    none = CrossValidation(folder, {}, "there is no finished cross-validation beside it")
    if not folds or not path.exists():
        return none
    try:
        summary: dict[str, Any] = read_json(path, raises=CheckpointError, remedy=_REMEDY)
        read = validated(_Summary, summary, str(path), raises=CheckpointError, remedy=_REMEDY)
        judged = [fold for fold in folds if fold.name.removeprefix("fold_") in read.folds]
        found = (change for fold in judged for change in _differences(own, identity, train, fold))
        others = [*dict.fromkeys(found)]
    except CheckpointError as error:
        return CrossValidation(folder, {}, error.lines[0])
    if not judged:
        return none
    if others:
        shown = "; ".join(others[:3]) + (" and more" if len(others) > 3 else "")
        return CrossValidation(folder, {}, f"the cross-validation in {folder} is of another model ({shown})")
    return CrossValidation(folder, summary)


class _Mean(BaseModel):
    Dice: float | None


class _Count(BaseModel):
    Dice: int


class _Spread(BaseModel):
    std: float | None


class _Between(BaseModel):
    foreground_mean: _Spread


class _Summary(BaseModel):
    """summary.json of a cross-validation, as far as it is quoted."""

    cases: int
    foreground_mean: _Mean
    foreground_n: _Count
    folds: dict[str, dict[str, Any]]
    between_folds: _Between
    intervals: dict[str, dict[str, dict[str, Interval]]] = {}


def _differences(
    own: Path, identity: Mapping[str, Any], train: Mapping[str, Any], fold: Path
) -> Iterator[str]:
    """What a fold was trained with that the final model was not, but for the split and chance."""
    yield from pipeline_changes(_model(read_mapping(fold / PIPELINE)), _model(identity))
    before = read_record(Lock, fold / LOCK).stretches[-1].train
    yield from pipeline_changes(_budget(before), _budget(train), "train")
    theirs, ours = (read_record(TrainedOn, folder / DATA) for folder in (fold, own))
    yield from text_changes(theirs, ours)
    yield from case_changes(theirs, ours)


def _model(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in ("split", "seed")}


def _budget(train: Mapping[str, Any]) -> dict[str, Any]:
    return {key: train.get(key) for key in _BUDGET}


def _postprocess(run: Run, beside: CrossValidation) -> tuple[str, ...]:
    """Where it is left to held-out cases, the choice of the cross-validation, which is written down here."""
    if run.pipeline.infer.postprocess != "auto":
        return ()
    choice = None if beside.fault else read_choice(beside.folder)
    if choice is None:
        with reported(run.folder):
            (run.folder / FILE).unlink(missing_ok=True)
        none = "there is none beside it" if beside.fault else "it chose nothing"
        return (f"postprocess: auto is chosen by a cross-validation, and {none}, so nothing is done",)
    write_choice(run.folder, choice)
    return ("postprocess: as the cross-validation chose:", *(f"  {line}" for line in said(choice)))


def _overlap(run: Run, beside: CrossValidation) -> tuple[str, ...]:
    """As `_postprocess`, of the overlap of windows."""
    if run.pipeline.infer.overlap != "auto":
        return ()
    choice = None if beside.fault else overlap.read_choice(beside.folder)
    if choice is None:
        overlap.forget_choice(run.folder)
        none = "there is none beside it" if beside.fault else "it chose nothing"
        return (f"overlap: auto is chosen by a cross-validation, and {none}, so it is {USUAL_OVERLAP:g}",)
    overlap.write_choice(run.folder, choice)
    return ("overlap: as the cross-validation chose:", f"  {choice.said()}")
