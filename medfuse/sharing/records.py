"""What a run folder says of its weights: what they were trained on, how good they are, where they began."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from medfuse.core.errors import CheckpointError
from medfuse.core.json_text import read_json, shortened, validated
from medfuse.core.labels import LabelValue
from medfuse.report.intervals import Interval, mean_interval
from medfuse.runs.final import cross_validation_of
from medfuse.runs.folder import FOLD_ALL
from medfuse.runs.records import DATA, LOCK, TRANSFER, Lock, TrainedOn, read_record
from medfuse.runs.teacher import RECORD as TEACHER
from medfuse.runs.teacher import TeacherRecord
from medfuse.sharing.description import Mean, Score, Source, Training

SUMMARY, METRICS = "summary.json", "metrics.jsonl"
_REMEDY = "put the file back as it was, or run the pipeline again, which writes it anew"
_TAIL = 2**16  # bytes at the end of a log, in which its last line begins
OVERALL = "mean foreground"


def training_of(folder: Path, said: Mapping[str, Any]) -> Training:
    """What made the weights of a run, of its records and of what its weights file `said`. CheckpointError."""
    known: dict[str, Any] = {"fold": said.get("fold"), "steps": steps_in(said)}
    if (folder / DATA).is_file():
        data = read_record(TrainedOn, folder / DATA)
        known |= {
            "cases": len(data.train),
            "held_out": len(data.validation),
            "data_sha256": data_hash(data),
        }
    if (folder / LOCK).is_file():
        lock = read_record(Lock, folder / LOCK)
        known |= {"seed": lock.seed, "date": lock.started[:10]}
    seconds = last_line(folder / METRICS).get("seconds")
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds >= 0:
        known["minutes"] = round(seconds / 60, 2)
    return Training(**known)


def unfinished(folder: Path) -> tuple[str, ...]:
    """A line where a run was trained here, and its training goes on or was stopped."""
    begun, over = (folder / LOCK).is_file(), (folder / SUMMARY).is_file()
    return ("its training was not over, and nothing is judged yet",) * (begun and not over)


def taught_by(folder: Path) -> tuple[str, ...]:
    """A line where another network taught a run; without where that lies. Raises CheckpointError."""
    if not (folder / TEACHER).is_file():
        return ()
    teacher = read_record(TeacherRecord, folder / TEACHER)
    if not teacher.taught:
        return ()
    name = shortened(without_place(teacher.run), 300)
    return (
        f"taught by {name}, a network of {teacher.parameters:,} parameters, weights SHA-256 {teacher.sha256}",
    )


def steps_in(said: Mapping[str, Any]) -> int | None:
    """How many steps made the weights, as their file has it."""
    trained = said.get("trained")
    steps = trained.get("step") if isinstance(trained, Mapping) else None
    return steps if isinstance(steps, int) and not isinstance(steps, bool) and steps >= 0 else None


def data_hash(data: TrainedOn) -> str:
    """Of the contents of all cases, whatever they are called and wherever they lie."""
    cases = sorted(" ".join([*case.images, str(case.label)]) for case in data.cases.values())
    return hashlib.sha256("\n".join(cases).encode()).hexdigest()


def versions_of(folder: Path) -> dict[str, str]:
    """Of the packages that trained a run, and of Python."""
    if not (folder / LOCK).is_file():
        return {}
    lock = read_record(Lock, folder / LOCK)
    return {"medfuse": lock.medfuse, "python": lock.python, **lock.packages}


def last_line(path: Path) -> dict[str, Any]:
    """The last whole line of a log of JSON lines; empty where there is none."""
    import json

    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            read = json.loads(line)
        except (ValueError, RecursionError):
            continue
        return read if isinstance(read, dict) else {}
    return {}


class _Case(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    metrics: dict[str, dict[str, float | None]]
    name: str = ""
    patient: str | None = None


class _Summary(BaseModel):
    """summary.json, as far as a description needs it."""

    labels: Annotated[dict[str, LabelValue], Field(max_length=10_000)]
    metric_per_case: tuple[_Case, ...]
    folds: dict[str, Any] = {}


def score_of(folder: Path) -> Score | None:
    """How a run, or a folder of folds, did on its held-out cases; None where none was judged.

    Of a final model it is its cross-validation that tells, where one of the same model is beside it. Raises
    CheckpointError.
    """
    if folder.name == FOLD_ALL:
        beside = cross_validation_of(folder)
        return None if beside.fault else _score(beside.folder / SUMMARY)
    return _score(folder / SUMMARY)


def _score(path: Path) -> Score | None:
    if not path.is_file():
        return None
    value = read_json(path, raises=CheckpointError, remedy=_REMEDY)
    read = validated(_Summary, value, str(path), raises=CheckpointError, remedy=_REMEDY)
    names = [*read.labels]
    keys = [str(value if isinstance(value, int) else tuple(value)) for value in read.labels.values()]
    rows = np.array(
        [[_dice(case.metrics.get(key, {})) for key in keys] for case in read.metric_per_case], np.float64
    ).reshape(-1, len(keys))
    if not np.isfinite(rows).any():
        return None
    patients = [case.patient or case.name or str(n) for n, case in enumerate(read.metric_per_case)]
    labels = tuple(_mean(name, mean_interval(column, patients)) for name, column in zip(names, rows.T))
    overall = _mean(OVERALL, mean_interval(rows[:, None, :], patients))
    of: Literal["held-out cases", "cross-validation"] = "cross-validation" if read.folds else "held-out cases"
    return Score(of=of, folds=len(read.folds), overall=overall, labels=labels)


def _mean(name: str, of: Interval | None) -> Mean:
    if of is None:
        return Mean(name=name, dice=None, cases=0)
    low, high = _rounded(of.low), _rounded(of.high)
    return Mean(name=name, dice=_rounded(of.value), low=low, high=high, cases=of.cases)


def _rounded(value: float | None) -> float | None:
    return None if value is None else min(1.0, max(0.0, round(value, 6)))


def _dice(metrics: Mapping[str, float | None]) -> float:
    value = metrics.get("Dice")
    return float("nan") if value is None else value


class _Brought(BaseModel):
    source: str = ""
    license: str = ""
    sha256: str = ""
    share_of_parameters: float | None = None


class _Given(BaseModel):
    """What transfer.json says of one part of the network."""

    brought: _Brought | None = None
    file: str = ""
    hub: str = ""
    license: str = ""
    sha256: str = ""
    share_of_parameters: float | None = None


def sources_of(folder: Path) -> tuple[Source, ...]:
    """The weights that parts of a run's network started from. Raises CheckpointError."""
    path = folder / TRANSFER
    if not path.is_file():
        return ()
    value = read_json(path, raises=CheckpointError, remedy=_REMEDY)
    given = validated(dict[str, _Given], value, str(path), raises=CheckpointError, remedy=_REMEDY)
    made = []
    for part, one in given.items():
        if one.brought is not None:
            own = one.brought
            made.append(_source(part, own.source, own.license, own.sha256, own.share_of_parameters))
        if one.file or one.hub:
            name = one.hub or PureWindowsPath(one.file).name
            made.append(_source(part, name, one.license, one.sha256, one.share_of_parameters))
    return tuple(made)


def _source(part: str, name: str, license: str, sha256: str, share: float | None) -> Source:
    texts = {"part": part, "source": without_place(name), "license": license, "sha256": sha256}
    within = share if share is not None and 0 <= share <= 1 else None
    return Source(**{key: shortened(text, 300) for key, text in texts.items()}, share=within)


def without_place(name: str) -> str:
    """What weights are known by, without where a file lies on somebody's disk."""
    path, at, revision = name.partition("@")
    inside = re.match(r"(/|~|\.\.?[/\\]|[A-Za-z]:[/\\]|\\\\|file:)", path)
    return f"{PureWindowsPath(path).name}{at}{revision}" if inside else name
