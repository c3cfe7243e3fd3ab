"""Means over cases, each with its n, in nnU-Net's `summary.json` form."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medfuse.core.labels import from_json
from medfuse.core.seal import write_own_json
from medfuse.core.text import number
from medfuse.report.calibration import DEFINITION
from medfuse.report.evaluate import EvaluatedCase, Evaluation
from medfuse.report.intervals import POSITIVE, SHARES, Interval, mean_interval, median_interval, said_once
from medfuse.report.lesions import lesion_intervals, together
from medfuse.report.metrics import CaseMetrics, Outcome

Number = float | int | None

OUTCOMES: tuple[Outcome, ...] = ("found", "missed", "false alarm", "absent in both")


def definitions(nsd_tolerance_mm: float) -> dict[str, str]:
    """In words: what is measured, and what an absent label does to it."""
    return {
        "Dice": "2·TP / (2·TP + FP + FN)",
        "IoU": "TP / (TP + FP + FN)",
        "surface": "the voxels of a label that touch another value, or the edge of the image, by a face; "
        "distances are between centres of such voxels, each of which counts the same",
        "HD95": "the larger of the two directed 95th percentiles of surface distances, in mm",
        "ASSD": "the mean distance of all voxels of both surfaces to the other surface, in mm",
        "NSD": f"share of both surfaces that lies within {nsd_tolerance_mm:g} mm of the other surface",
        "ECE": DEFINITION,
        "volume_error_ml": "predicted minus reference volume; its mean is the bias",
        "absolute_volume_error_ml": "the same without its sign",
        "relative_volume_error": "predicted minus reference volume, divided by the reference volume",
        "absent in both": "in neither reference nor prediction: every metric is null and enters no mean",
        "missed": "in the reference, not in the prediction: Dice, IoU and NSD are 0, HD95 and ASSD null, "
        "relative_volume_error is -1",
        "false alarm": "in the prediction, not in the reference: Dice, IoU and NSD are 0, HD95, ASSD "
        "and relative_volume_error null",
        "mean": "per label, over the cases where the metric is defined; `n` counts them",
        "intervals": "of the mean and of the median: in a share `level` of samples of patients the true one "
        "lies between low and high; any_low, any_high: of the mean, whatever the distribution",
        "foreground_mean": "the mean of the labels' means, which is called mean foreground Dice everywhere; "
        "`foreground_n` counts the labels that have one",
    }


LESIONS = {
    "lesions": "components of a label, whose voxels touch at corners at least, summed over all cases",
    "lesions.found": "of the reference: those of which a voxel is predicted; the others are missed",
    "lesions.right": "of the prediction: those that have a voxel of the reference; the others are false",
    "lesions.F1": "2·found / (2·found + missed + false)",
    "lesions.recall": "found / (found + missed), the lesion-wise sensitivity",
    "lesions.intervals": "of F1, recall and precision over all cases, with other patients",
    "lesions.precision": "right / (right + false)",
}


def summarise(evaluation: Evaluation, *, intervals: bool = True) -> dict[str, Any]:
    """The contents of `summary.json`. Undefined values are None, and every mean has its n and its interval.

    `foreground_mean`, `mean` and `metric_per_case` have nnU-Net's keys (labels by value, as text); the
    other keys are medfuse's own.
    """
    values = {name: str(value) for name, value in evaluation.labels.items()}
    rows = {value: [as_row(c.metrics[name]) for c in evaluation.cases] for name, value in values.items()}
    means = {value: {key: _mean(row[key] for row in rows[value]) for key in KEYS} for value in rows}
    foreground = {key: _mean(mean[key][0] for mean in means.values()) for key in KEYS}
    return {
        "foreground_mean": {key: mean for key, (mean, _) in foreground.items()},
        "mean": {value: {key: mean for key, (mean, _) in row.items()} for value, row in means.items()},
        "metric_per_case": [_case(case, values) for case in evaluation.cases],
        **_lesions(evaluation, values),
        "labels": dict(evaluation.labels),
        "cases": len(evaluation.cases),
        "foreground_n": {key: n for key, (_, n) in foreground.items()},
        "n": {value: {key: n for key, (_, n) in row.items()} for value, row in means.items()},
        "patients": len({case.patient for case in evaluation.cases}),
        **({"intervals": _intervals(evaluation, rows)} if intervals else {}),
        "outcomes": {value: _outcomes(evaluation, name) for name, value in values.items()},
        "nsd_tolerance_mm": evaluation.nsd_tolerance_mm,
        "definitions": {
            **definitions(evaluation.nsd_tolerance_mm),
            **(LESIONS if any(case.lesions for case in evaluation.cases) else {}),
        },
        "errors": list(evaluation.errors),
        "notes": list(evaluation.notes),
        **({"teacher": dict(evaluation.teacher)} if evaluation.teacher else {}),
    }


def foreground_text(summary: Mapping[str, Any]) -> str:
    """`0.8123 [0.7911, 0.8290] (95 %, 5 patients, 3 labels)`: the mean foreground Dice, and of what."""
    n, cases = summary["foreground_n"]["Dice"], summary["cases"]
    labels = f"{n} label{'s' * (n != 1)}"
    if (interval := interval_of(summary, "foreground_mean")) is not None:
        return f"{interval.text()[:-1]}, {labels})"
    return f"{number(summary['foreground_mean']['Dice'])} ({labels}, {cases} case{'s' * (cases != 1)})"


def mean_text(summary: Mapping[str, Any], label: str, key: str = "Dice") -> str:
    """`0.8123 [0.7911, 0.8290] (95 %, 5 patients)`: a label's mean; a dash where no case defines it."""
    if (interval := interval_of(summary, label, key)) is not None:
        return interval.text()
    return f"{number(summary['mean'][label][key])} (n = {summary['n'][label][key]})"


def interval_of(summary: Mapping[str, Any], label: str, key: str = "Dice") -> Interval | None:
    """Of a label's mean, or the foreground's; None where there is none, as in files of earlier versions."""
    found = summary.get("intervals", {}).get(label, {}).get(key)
    return Interval.of_json(found["mean"]) if found else None


def lesion_lines(summary: Mapping[str, Any]) -> list[str]:
    """`lesions of tumour: 12 of 15 found, 3 false, F1 0.8000 [0.6511, 0.9130] (95 %, 9 patients)`."""
    lines = []
    for name, value in from_json(summary["labels"]).items():
        if counted := summary.get("lesions", {}).get(str(value)):
            found = counted["intervals"].get("F1")
            f1 = number(counted["F1"]) if found is None else Interval.of_json(found).text()
            there = counted["found"] + counted["missed"]
            lines.append(
                f"lesions of {name}: {counted['found']} of {there} found, {counted['false']} false, F1 {f1}"
            )
    return lines


def interval_lines(summary: Mapping[str, Any]) -> list[str]:
    """How the intervals of Dice were made, and what they cannot know: lines for below what is printed."""
    names = {"foreground_mean": "mean foreground Dice"}
    names |= {str(value): f"Dice {name}" for name, value in from_json(summary["labels"]).items()}
    found = {name: interval_of(summary, label) for label, name in names.items()}
    return said_once({name: one for name, one in found.items() if one is not None})


def write_summary(path: Path, evaluation: Evaluation) -> dict[str, Any]:
    """Write `summarise(evaluation)` to `path`, and return it. Raises OutputError."""
    summary = summarise(evaluation)
    write_own_json(path, summary)
    return summary


def as_row(metrics: CaseMetrics) -> dict[str, Number]:
    """One label of one case under the names of `summary.json`."""
    error = metrics.volume_error_ml
    return {
        "Dice": metrics.dice,
        "IoU": metrics.iou,
        "HD95": metrics.hd95_mm,
        "NSD": metrics.nsd,
        "ASSD": metrics.assd_mm,
        "ECE": metrics.calibration_error,
        "volume_error_ml": error,
        "absolute_volume_error_ml": None if error is None else abs(error),
        "relative_volume_error": metrics.relative_volume_error,
        "TP": metrics.tp,
        "FP": metrics.fp,
        "FN": metrics.fn,
        "TN": metrics.tn,
        "n_pred": metrics.n_pred,
        "n_ref": metrics.n_ref,
    }


BOUNDS = {
    **dict.fromkeys(("Dice", "IoU", "NSD", "ECE"), SHARES),
    **dict.fromkeys(("HD95", "ASSD", "absolute_volume_error_ml"), POSITIVE),
}
"""What measures lie between, where they have bounds."""
KEYS = tuple(as_row(CaseMetrics(0, 0, 0, 0, 0, 0, None, None, None, None, None, None)))
COUNTS = ("TP", "FP", "FN", "TN", "n_pred", "n_ref")
MEASURED = tuple(key for key in KEYS if key not in COUNTS)


def _case(case: EvaluatedCase, values: Mapping[str, str]) -> dict[str, Any]:
    return {
        "metrics": {value: as_row(case.metrics[name]) for name, value in values.items()},
        "outcomes": {value: case.metrics[name].outcome for name, value in values.items()},
        **({"lesions": {v: case.lesions[n].as_row() for n, v in values.items()}} if case.lesions else {}),
        "name": case.name,
        **({"patient": case.pair.patient} if case.pair.patient else {}),
        "prediction_file": str(case.pair.prediction),
        "reference_file": str(case.pair.reference),
    }


def _intervals(evaluation: Evaluation, rows: Mapping[str, list[dict[str, Number]]]) -> dict[str, Any]:
    """Label → measure → `mean` and `median`, and those of the foreground's mean."""
    patients = [case.patient for case in evaluation.cases]
    shape = len(rows), len(patients)  # also of no label, as where all label maps are empty
    tables = {
        key: np.array([[_or_nan(r[key]) for r in of] for of in rows.values()], float).reshape(shape).T
        for key in MEASURED
    }
    found = {
        value: {key: _both(tables[key][:, n], patients, key) for key in MEASURED}
        for n, value in enumerate(rows)
    }
    found["foreground_mean"] = {
        key: {"mean": interval.to_json()}
        for key, table in tables.items()
        if (interval := mean_interval(table[:, None, :], patients, bounds=BOUNDS.get(key))) is not None
    }
    return {label: {key: both for key, both in row.items() if both} for label, row in found.items()}


def _both(values: Any, patients: Sequence[str], key: str) -> dict[str, Any]:
    mean = mean_interval(values, patients, bounds=BOUNDS.get(key))
    median = median_interval(values, patients)
    return {"mean": mean.to_json(), "median": median.to_json()} if mean and median else {}


def _or_nan(value: Number) -> float:
    return math.nan if value is None else value


def _lesions(evaluation: Evaluation, values: Mapping[str, str]) -> dict[str, Any]:
    """The lesions of all cases by label; nothing where they are not counted."""
    counted = [case.lesions for case in evaluation.cases if case.lesions is not None]
    if not counted:
        return {}
    patients = [case.patient for case in evaluation.cases if case.lesions is not None]
    return {
        "lesions": {
            value: {
                **together(one[name] for one in counted).as_row(),
                "intervals": lesion_intervals([one[name] for one in counted], patients),
            }
            for name, value in values.items()
        }
    }


def _mean(values: Iterable[Number]) -> tuple[float | None, int]:
    """The mean of what is defined, and how many that are; None of 0 where nothing is."""
    defined = [value for value in values if value is not None]
    return (math.fsum(defined) / len(defined) if defined else None), len(defined)


def _outcomes(evaluation: Evaluation, name: str) -> dict[str, int]:
    counted = Counter(case.metrics[name].outcome for case in evaluation.cases)
    return {outcome: counted[outcome] for outcome in OUTCOMES}
