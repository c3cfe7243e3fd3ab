"""Two folders of label maps → metrics of every case."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from medfuse.core.errors import DataError, MedfuseError
from medfuse.core.labels import LabelValue, map_values, mask_of, members
from medfuse.core.patients import patients_in
from medfuse.core.reporter import Reporter
from medfuse.report.calibration import calibration_error
from medfuse.report.lesions import Lesions, case_lesions
from medfuse.report.metrics import NSD_TOLERANCE_MM, CaseMetrics, case_metrics, mean_foreground_dice
from medfuse.report.pairs import Pair, labels_found, on_one_grid, pair_folders
from medfuse.volumes.read import read_geometry, read_labels
from medfuse.volumes.volume import values_of

ProbabilitiesOf = Callable[[Pair, tuple[int, ...]], Callable[[LabelValue], Any] | None]
"""Pair and shape → label → its probabilities (i, j, k), None where a case or a label has none."""


@dataclass(frozen=True)
class EvaluatedCase:
    """A pair, and the metrics of each label; its lesions where they are counted."""

    pair: Pair
    metrics: Mapping[str, CaseMetrics]
    lesions: Mapping[str, Lesions] | None = None

    @property
    def name(self) -> str:
        return self.pair.name

    @property
    def patient(self) -> str:
        """Whose case it is; where nobody says so, a patient of its own."""
        return self.pair.patient or self.name

    @property
    def dice(self) -> float | None:
        """The mean over the labels that are defined."""
        return mean_foreground_dice(self.metrics)


@dataclass(frozen=True)
class Evaluation:
    """Every judged case, by name. `errors` are cases that could not be judged, `notes` what else is odd.

    `labels` is without background. `teacher`: of a run that another one taught, which, and what.
    """

    cases: tuple[EvaluatedCase, ...]
    labels: Mapping[str, LabelValue]
    nsd_tolerance_mm: float
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    teacher: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Judging:
    """How pairs are judged. ignore: the value of voxels in a reference that nobody annotated.

    lesions: whether the components of each label are counted too.
    """

    labels: Mapping[str, LabelValue]
    ignore: int | None = None
    nsd_tolerance_mm: float = NSD_TOLERANCE_MM
    tolerance_mm: float = 1e-3
    lesions: bool = False


@dataclass(frozen=True)
class Judged:
    """What became of a pair: the case, and each (kind of map, value) that no label names; or its errors."""

    name: str
    case: EvaluatedCase | None = None
    strays: tuple[tuple[str, int], ...] = ()
    errors: tuple[str, ...] = ()


Judge = Callable[[Sequence[Pair], Judging], Iterator[Judged]]
"""Judges pairs, in any order."""


def evaluate_folders(
    predictions: Path,
    references: Path,
    labels: Mapping[str, LabelValue] | None = None,
    *,
    ignore: int | None = None,
    nsd_tolerance_mm: float = NSD_TOLERANCE_MM,
    tolerance_mm: float = 1e-3,
    lesions: bool = False,
    patient: str | None = None,
    probabilities: ProbabilitiesOf | None = None,
    reporter: Reporter | None = None,
    judge: Judge | None = None,
) -> Evaluation:
    """Judge every reference that has a prediction of the same name; their endings may differ.

    References without a prediction are an error line, and so is a link that leads nowhere; predictions
    without a reference, a label that is in no case, and what else the folders hold, are notes, one for each
    kind. Without `labels`, the values found in the references are judged, named by their number. `patient`: a
    regular expression whose first group, in a case's name, is its patient. Raises DataError where a folder is
    missing, nothing can be paired, or a name holds no patient.
    """
    pairs, errors, notes = pair_folders(predictions, references)
    if patient is not None:
        pairs = _of_patients(pairs, patient)
    pairs, labels, more = on_one_grid(pairs, labels, ignore)
    errors += [line for lines in more.faults.values() for line in lines]
    notes += more.notes
    evaluation = evaluate_pairs(
        pairs,
        labels,
        ignore=ignore,
        nsd_tolerance_mm=nsd_tolerance_mm,
        tolerance_mm=tolerance_mm,
        lesions=lesions,
        probabilities=probabilities,
        reporter=reporter,
        judge=judge,
    )
    return Evaluation(
        evaluation.cases,
        evaluation.labels,
        nsd_tolerance_mm,
        (*errors, *evaluation.errors),
        (*notes, *evaluation.notes, *_absent_labels(evaluation)),
    )


def _of_patients(pairs: Sequence[Pair], pattern: str) -> list[Pair]:
    try:
        found = patients_in((pair.name for pair in pairs), pattern)
    except ValueError as error:
        raise DataError(f"--patient {error}") from error
    return [replace(pair, patient=found[pair.name]) for pair in pairs]


def evaluate_pairs(
    pairs: Sequence[Pair],
    labels: Mapping[str, LabelValue] | None = None,
    *,
    ignore: int | None = None,
    nsd_tolerance_mm: float = NSD_TOLERANCE_MM,
    tolerance_mm: float = 1e-3,
    lesions: bool = False,
    probabilities: ProbabilitiesOf | None = None,
    reporter: Reporter | None = None,
    judge: Judge | None = None,
) -> Evaluation:
    """Judge `pairs`. A case that cannot be read, or lies on two grids, is an error line; the rest go on.

    `ignore`: the value of voxels in a reference that nobody annotated, which are not judged.
    `lesions`: whether the components of each label are counted too. `probabilities`: those of a case of a
    shape and of a label, for the calibration error. `judge`: who does it, threads if not given, with
    probabilities that it finds itself.
    """
    reporter = reporter or Reporter(quiet=True)
    if labels is None:
        labels = {n: v for n, v in labels_found(pairs, reporter).items() if v != ignore}
    labels = {name: value for name, value in labels.items() if value != 0}
    if odd := [f"{name}: {value}" for name, value in labels.items() if min(members(value)) < 0]:
        raise DataError(f"labels: {', '.join(odd)}: values are 0 or more; renumber them")
    judge = judge or partial(in_threads, probabilities=probabilities)
    how = Judging(dict(labels), ignore, nsd_tolerance_mm, tolerance_mm, lesions)
    cases: list[EvaluatedCase] = []
    errors: dict[str, tuple[str, ...]] = {}
    strays: dict[tuple[str, int], list[str]] = {}
    with reporter.track("evaluate", len(pairs)) as advance:
        for done, judged in enumerate(judge(pairs, how), start=1):
            if judged.case is None:
                errors[judged.name] = judged.errors
            else:
                cases.append(judged.case)
                for stray in judged.strays:
                    strays.setdefault(stray, []).append(judged.name)
            advance(done, judged.name)
    return Evaluation(
        cases=tuple(sorted(cases, key=lambda case: case.name)),
        labels=labels,
        nsd_tolerance_mm=nsd_tolerance_mm,
        errors=tuple(line for name in sorted(errors) for line in errors[name]),
        notes=tuple(_stray_note(kind, value, names) for (kind, value), names in sorted(strays.items())),
    )


def in_threads(
    pairs: Sequence[Pair], how: Judging, probabilities: ProbabilitiesOf | None = None
) -> Iterator[Judged]:
    """Judged in this process, some at a time."""
    import monai.metrics  # noqa: F401  before the threads: two that import it at once can see it half-made

    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="evaluate")
    try:
        for job in as_completed([pool.submit(judge_pair, pair, how, probabilities) for pair in pairs]):
            yield job.result()
    finally:
        pool.shutdown(cancel_futures=True)


def judge_pair(pair: Pair, how: Judging, probabilities: ProbabilitiesOf | None = None) -> Judged:
    """One pair; what a user can put right is told, not raised."""
    try:
        return _judge(pair, how, probabilities)
    except MedfuseError as error:
        return Judged(pair.name, errors=error.lines)
    except MemoryError:
        too_large = "judging it takes more memory than is free; crop it, or use a larger machine"
        return Judged(pair.name, errors=(f"{pair.reference}: {too_large}",))


def _judge(pair: Pair, how: Judging, probabilities: ProbabilitiesOf | None) -> Judged:
    """Raises DataError."""
    grid, predicted = read_geometry(pair.reference), read_geometry(pair.prediction)
    if unlike := grid.differences(predicted, how.tolerance_mm):
        raise DataError(
            f"{pair.prediction}: {'; '.join(unlike)} in {pair.reference}; "
            + grid.remedy(predicted, "predict on the grid of the reference, or resample one to the other")
        )
    prediction, reference = read_labels(pair.prediction).array, read_labels(pair.reference).array
    known = {0, *map_values(how.labels.values()), *(() if how.ignore is None else (how.ignore,))}
    strays = tuple(
        (kind, int(value))
        for kind, array in (("prediction", prediction), ("reference", reference))
        for value in values_of(array)
        if int(value) not in known
    )
    metrics = case_metrics(
        prediction,
        reference,
        how.labels,
        (grid if grid.spaced else predicted).spacing_mm,
        nsd_tolerance_mm=how.nsd_tolerance_mm,
        ignore=how.ignore,
    )
    if probabilities is not None and (of := probabilities(pair, reference.shape)) is not None:
        known_voxels = None if how.ignore is None else reference != how.ignore
        for name, value in how.labels.items():
            if (said := of(value)) is not None:
                masks = mask_of(prediction, value), mask_of(reference, value)
                error = calibration_error(said, *masks, known_voxels)
                metrics[name] = replace(metrics[name], calibration_error=error)
    counted = case_lesions(prediction, reference, how.labels, ignore=how.ignore) if how.lesions else None
    return Judged(pair.name, EvaluatedCase(pair, metrics, counted), strays)


def _absent_labels(evaluation: Evaluation) -> list[str]:
    """A line for each label that no case holds, in its reference or its prediction."""
    if not evaluation.cases:
        return []
    return [
        f"label {name}: no case that was judged holds {' or '.join(map(str, members(value)))}, neither its "
        "reference nor its prediction; check the label's value"
        for name, value in evaluation.labels.items()
        if all(case.metrics[name].outcome == "absent in both" for case in evaluation.cases)
    ]


def _stray_note(kind: str, value: int, names: Sequence[str]) -> str:
    first = min(names)
    many = f"{len(names)} {kind}s, {first} among them," if len(names) > 1 else f"{kind} {first}"
    return f"value {value} in {many} is none of the labels and is not judged"
