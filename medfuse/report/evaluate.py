"""Two folders of label maps → metrics of every case."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from medfuse.core.errors import DataError, MedfuseError
from medfuse.core.geometry import Geometry
from medfuse.core.labels import LabelValue, map_values, members
from medfuse.core.reporter import Reporter
from medfuse.report.lesions import Lesions, case_lesions
from medfuse.report.metrics import NSD_TOLERANCE_MM, CaseMetrics, case_metrics, mean_foreground_dice
from medfuse.volumes.dicom.segments import label_object
from medfuse.volumes.endings import ENDINGS, ending
from medfuse.volumes.folders import left_out, listed, look_into, named, not_there
from medfuse.volumes.label_maps import (
    Fitted,
    common_grid,
    fitted,
    is_label_object,
    label_stem,
    segment_numbers,
    segment_values,
)
from medfuse.volumes.read import read_geometry, read_labels
from medfuse.volumes.volume import values_of


@dataclass(frozen=True)
class Pair:
    """A case's two label maps."""

    name: str
    prediction: Path
    reference: Path


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
    def dice(self) -> float | None:
        """The mean over the labels that are defined."""
        return mean_foreground_dice(self.metrics)


@dataclass(frozen=True)
class Evaluation:
    """Every judged case, by name. `errors` are cases that could not be judged, `notes` what else is odd.

    `labels` is without background.
    """

    cases: tuple[EvaluatedCase, ...]
    labels: Mapping[str, LabelValue]
    nsd_tolerance_mm: float
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def evaluate_folders(
    predictions: Path,
    references: Path,
    labels: Mapping[str, LabelValue] | None = None,
    *,
    ignore: int | None = None,
    nsd_tolerance_mm: float = NSD_TOLERANCE_MM,
    tolerance_mm: float = 1e-3,
    lesions: bool = False,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Judge every reference that has a prediction of the same name; their endings may differ.

    References without a prediction are an error line, and so is a link that leads nowhere; predictions
    without a reference, a label that is in no case, and what else the folders hold, are notes, one for each
    kind. Without `labels`, the values found in the references are judged, named by their number. Raises
    DataError where a folder is missing or nothing can be paired.
    """
    pairs, errors, notes = pair_folders(predictions, references)
    pairs, labels, more = _on_one_grid(pairs, labels, ignore)
    errors += [line for lines in more.faults.values() for line in lines]
    notes += more.notes
    evaluation = evaluate_pairs(
        pairs,
        labels,
        ignore=ignore,
        nsd_tolerance_mm=nsd_tolerance_mm,
        tolerance_mm=tolerance_mm,
        lesions=lesions,
        reporter=reporter,
    )
    return Evaluation(
        evaluation.cases,
        evaluation.labels,
        nsd_tolerance_mm,
        (*errors, *evaluation.errors),
        (*notes, *evaluation.notes, *_absent_labels(evaluation)),
    )


def pair_folders(predictions: Path, references: Path) -> tuple[list[Pair], list[str], list[str]]:
    """Pairs, error lines and notes. Raises DataError where a folder is missing or there is no pair."""
    held = look_into(predictions), look_into(references)
    label_maps = [
        (*side.volumes, *_objects(folder, side.volumes))
        for folder, side in zip((predictions, references), held)
    ]
    ours, theirs = map(_by_name, label_maps)
    errors = [
        f"{name}: {' and '.join(str(f) for f in files)} have one name; keep one of them"
        for side in (ours, theirs)
        for name, files in side.items()
        if len(files) > 1
    ]
    if lacking := [theirs[name][0].name for name in theirs if name not in ours]:
        remedy = "add predictions of the same names; their endings may differ"
        errors.append(
            f"{references}: {named(lacking, 'reference')} without a prediction in {predictions}; {remedy}"
        )
    errors += [not_there(path) for side in held for path in side.lost]
    alone = [ours[name][0].name for name in ours if name not in theirs]
    notes = [f"{predictions}: {named(alone, 'prediction')} without a reference, not judged"] if alone else []
    if alone and lacking and not ours.keys() & theirs.keys():
        errors.insert(0, f"{predictions} and {references} share no case: no two names in them are the same")
    for folder, side, used in zip((predictions, references), held, label_maps):
        notes += left_out(folder, (*used, *side.lost), [folder])
    single = [n for n in theirs if len(theirs[n]) == 1 and len(ours.get(n, ())) == 1]
    if not single:
        empty = [folder for folder, side in ((predictions, ours), (references, theirs)) if not side]
        none = [f"{folder}: no label map here ends with one of {', '.join(ENDINGS)}" for folder in empty]
        raise DataError(*none, *errors, *notes)
    return [Pair(n, ours[n][0], theirs[n][0]) for n in single], errors, notes


def _objects(folder: Path, volumes: Sequence[Path]) -> list[Path]:
    """SEG and RTSTRUCT objects: files, and folders and zip files that hold one.

    Of label maps in several formats, as medfuse writes them, those of other formats are judged.
    """
    others = {label_stem(path) for path in volumes}

    def is_one(path: Path) -> bool:
        try:
            seen = path.exists() and path.name[0] != "." and label_stem(path) not in others
            return seen and is_label_object(path)
        except DataError:
            return False

    return [path for path in listed(folder) if is_one(path)]


def _on_one_grid(
    pairs: Sequence[Pair], labels: Mapping[str, LabelValue] | None, ignore: int | None
) -> tuple[list[Pair], Mapping[str, LabelValue] | None, Fitted]:
    """Pairs whose SEG and RTSTRUCT are label maps on the grid of the other side, and the labels that they
    name where none are given. What is wrong with a pair is told, and it is left out.
    """
    objects = [pair for pair in pairs if None in (ending(pair.prediction), ending(pair.reference))]
    if not objects:
        return list(pairs), labels, Fitted({}, (), {})
    if labels is None and all(ending(pair.reference) is None for pair in pairs):
        labels = segment_values(pair.reference for pair in pairs if _opens(pair.reference))
    known = labels
    if known is None:
        known = _labels_found(pairs, Reporter(quiet=True))
        numbers = segment_numbers(pair.reference for pair in pairs if _opens(pair.reference))
        known = labels = known | {str(number): number for number in numbers}
    if ignore is not None:
        known = {**known, "ignore": ignore}
    sides: dict[str, dict[str, tuple[Path, Path | Geometry]]] = {"prediction": {}, "reference": {}}
    faults: dict[str, tuple[str, ...]] = {}
    for pair in objects:
        both = ending(pair.prediction) is None and ending(pair.reference) is None
        try:
            grid = common_grid(pair.reference, pair.prediction) if both else None
        except DataError as error:
            faults[pair.name] = error.lines
            continue
        sides["prediction"][pair.name] = pair.prediction, grid or pair.reference
        sides["reference"][pair.name] = pair.reference, grid or pair.prediction
    found = {side: fitted(label_maps, known) for side, label_maps in sides.items()}
    for side in found.values():
        faults |= side.faults
    files = {side: found[side].files for side in found}
    made = [
        Pair(
            pair.name,
            files["prediction"].get(pair.name, pair.prediction),
            files["reference"].get(pair.name, pair.reference),
        )
        for pair in pairs
        if pair.name not in faults
    ]
    notes = tuple(note for side in found.values() for note in side.notes)
    return made, labels, Fitted({}, notes, faults)


def _opens(path: Path) -> bool:
    """Whether an object can be read; what is wrong with it is told when it is judged."""
    try:
        return ending(path) is None and label_object(path) is not None
    except DataError:
        return False


def evaluate_pairs(
    pairs: Sequence[Pair],
    labels: Mapping[str, LabelValue] | None = None,
    *,
    ignore: int | None = None,
    nsd_tolerance_mm: float = NSD_TOLERANCE_MM,
    tolerance_mm: float = 1e-3,
    lesions: bool = False,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Judge `pairs`. A case that cannot be read, or lies on two grids, is an error line; the rest go on.

    `ignore`: the value of voxels in a reference that nobody annotated, which are not judged.
    `lesions`: whether the components of each label are counted too.
    """
    reporter = reporter or Reporter(quiet=True)
    if labels is None:
        labels = {n: v for n, v in _labels_found(pairs, reporter).items() if v != ignore}
    labels = {name: value for name, value in labels.items() if value != 0}
    if odd := [f"{name}: {value}" for name, value in labels.items() if min(members(value)) < 0]:
        raise DataError(f"labels: {', '.join(odd)}: values are 0 or more; renumber them")
    known = dict(labels)

    def judge(pair: Pair) -> tuple[EvaluatedCase, list[tuple[str, int]]]:
        return _judge(pair, known, ignore, nsd_tolerance_mm, tolerance_mm, lesions)

    return _judge_all(pairs, labels, judge, nsd_tolerance_mm, reporter)


def _judge_all(
    pairs: Sequence[Pair],
    labels: Mapping[str, LabelValue],
    judge: Callable[[Pair], tuple[EvaluatedCase, list[tuple[str, int]]]],
    nsd_tolerance_mm: float,
    reporter: Reporter,
) -> Evaluation:
    import monai.metrics  # noqa: F401  before the threads: two that import it at once can see it half-made

    cases: list[EvaluatedCase] = []
    errors: dict[str, tuple[str, ...]] = {}
    strays: dict[tuple[str, int], list[str]] = {}
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="evaluate")
    try:
        with reporter.track("evaluate", len(pairs)) as advance:
            jobs = {pool.submit(judge, pair): pair for pair in pairs}
            for done, job in enumerate(as_completed(jobs), start=1):
                name = jobs[job].name
                try:
                    case, stray = job.result()
                except MedfuseError as error:
                    errors[name] = error.lines
                except MemoryError:
                    too_large = "judging it takes more memory than is free; crop it, or use a larger machine"
                    errors[name] = (f"{jobs[job].reference}: {too_large}",)
                else:
                    cases.append(case)
                    for kind_and_value in stray:
                        strays.setdefault(kind_and_value, []).append(name)
                advance(done, name)
    finally:
        pool.shutdown(cancel_futures=True)
    return Evaluation(
        cases=tuple(sorted(cases, key=lambda case: case.name)),
        labels=labels,
        nsd_tolerance_mm=nsd_tolerance_mm,
        errors=tuple(line for name in sorted(errors) for line in errors[name]),
        notes=tuple(_stray_note(kind, value, names) for (kind, value), names in sorted(strays.items())),
    )


def _judge(
    pair: Pair,
    labels: Mapping[str, LabelValue],
    ignore: int | None,
    nsd_tolerance_mm: float,
    tolerance_mm: float,
    lesions: bool,
) -> tuple[EvaluatedCase, list[tuple[str, int]]]:
    """The case, and each (kind of map, value) that no label names. Raises DataError."""
    grid, predicted = read_geometry(pair.reference), read_geometry(pair.prediction)
    if unlike := grid.differences(predicted, tolerance_mm):
        raise DataError(
            f"{pair.prediction}: {'; '.join(unlike)} in {pair.reference}; "
            + grid.remedy(predicted, "predict on the grid of the reference, or resample one to the other")
        )
    prediction, reference = read_labels(pair.prediction).array, read_labels(pair.reference).array
    known = {0, *map_values(labels.values()), *(() if ignore is None else (ignore,))}
    stray = [
        (kind, int(value))
        for kind, array in (("prediction", prediction), ("reference", reference))
        for value in values_of(array)
        if int(value) not in known
    ]
    metrics = case_metrics(
        prediction,
        reference,
        labels,
        (grid if grid.spaced else predicted).spacing_mm,
        nsd_tolerance_mm=nsd_tolerance_mm,
        ignore=ignore,
    )
    counted = case_lesions(prediction, reference, labels, ignore=ignore) if lesions else None
    return EvaluatedCase(pair, metrics, counted), stray


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


def _labels_found(pairs: Sequence[Pair], reporter: Reporter) -> dict[str, int]:
    """The values of all references, named by their number. An unreadable file is reported when judged."""
    values: set[int] = set()
    with reporter.track("look for labels", len(pairs)) as advance:
        for done, pair in enumerate(pairs, start=1):
            try:
                values.update(values_of(read_labels(pair.reference).array))
            except (DataError, MemoryError):
                continue
            finally:
                advance(done, pair.name)
    return {str(value): value for value in sorted(values) if value}


def _by_name(label_maps: Iterable[Path]) -> dict[str, list[Path]]:
    """Label maps by their names without ending."""
    found: dict[str, list[Path]] = {}
    for path in label_maps:
        found.setdefault(label_stem(path), []).append(path)
    return found
