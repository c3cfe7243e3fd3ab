"""`medfuse evaluate`: two folders of label maps, one judged by the other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medfuse.core.errors import DataError, MedfuseError
from medfuse.core.files import make_folder
from medfuse.core.json_text import shortened
from medfuse.core.labels import LabelValue, label_value
from medfuse.core.patients import patient_pattern
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.core.seal import refuse_others
from medfuse.core.text import aligned, number
from medfuse.verbs.crews import ALONE, Workers

_MEASURES = {"Dice": "Dice", "HD95": "HD95 mm", "NSD": "NSD"}
_LESIONS = ("lesions found", "false", "lesion F1")


def evaluate_label_maps(
    predictions: Path,
    references: Path,
    names: Sequence[str],
    *,
    output: Path | None,
    overwrite: bool = False,
    lesions: bool = False,
    patient: str | None = None,
    calibration: bool = False,
    workers: Workers = ALONE,
    reporter: Reporter,
) -> Result:
    """Judge a folder of label maps against another; write summary.json; return a table.

    `lesions`: whether the components of each label are counted, found, missed and false. `patient`: a
    regular expression for case names whose first group is the patient. `calibration`: whether probabilities
    beside the predictions are judged too. `workers`: who judges, a case at a time.
    Raises OutputError before any work where another's summary.json is there, unless `overwrite`.
    """
    from medfuse.report.evaluate import evaluate_folders
    from medfuse.report.summary import foreground_text, interval_lines, write_summary
    from medfuse.runs.probabilities import probabilities_beside
    from medfuse.verbs.judging import judged_by

    labels = dict(map(label_of, names))
    ignore = labels.pop("ignore", None)
    if isinstance(ignore, tuple):
        raise MedfuseError("--label ignore=…: give the one value of voxels that are not to be judged")
    if patient is not None:
        try:
            patient_pattern(patient)
        except ValueError as fault:
            raise MedfuseError(f"--patient {fault}") from fault
    target = (output or predictions) / "summary.json"
    refuse_others(target, overwrite=overwrite)
    judge = partial(judged_by, workers, target.parent, reporter, calibration) if workers.are_others else None
    evaluation = evaluate_folders(
        predictions,
        references,
        labels or None,
        ignore=ignore,
        lesions=lesions,
        patient=patient,
        probabilities=probabilities_beside if calibration else None,
        reporter=reporter,
        judge=judge,
    )
    make_folder(target.parent)
    refuse_others(target, overwrite=overwrite)
    summary = write_summary(target, evaluation)
    measures = {**_MEASURES, **({"ECE": "ECE"} if calibration else {})}
    heads = [f"{head} [95 %] (n)" for head in measures.values()]
    rows = [["label", *heads, *(_LESIONS if lesions else ())]]
    for name, value in evaluation.labels.items():
        means, n = _means(summary, str(value), measures), summary["n"][str(value)]
        counted = summary.get("lesions", {}).get(str(value))
        more = (
            [f"{counted['found']} of {counted['found'] + counted['missed']}", str(counted["false"])]
            if counted
            else []
        )
        f1 = [number(counted["F1"]) + _limits(counted)] if counted else []
        rows.append([name, *(f"{means[key]} ({n[key]})" for key in means), *more, *f1])
    overall = f"mean foreground Dice: {foreground_text(summary)}"
    lines = [*aligned(rows).splitlines(), overall, *interval_lines(summary)]
    if evaluation.errors:
        error = DataError(*lines, *evaluation.errors, *evaluation.notes, f"the other cases are in {target}")
        error.values = {**summary, "summary": target}
        raise error
    return Result("\n".join([*lines, *evaluation.notes, str(target)]), {**summary, "summary": target})


def _limits(counted: Mapping[str, Any]) -> str:
    from medfuse.report.intervals import Interval

    found = counted["intervals"].get("F1")
    return "" if found is None else Interval.of_json(found).limits_text()


def _means(summary: Mapping[str, Any], label: str, measures: Iterable[str]) -> dict[str, str]:
    """Measure → its mean with its interval."""
    from medfuse.report.summary import interval_of

    found = {}
    for key in measures:
        interval = interval_of(summary, label, key)
        found[key] = number(summary["mean"][label][key]) + (
            "" if interval is None else interval.limits_text()
        )
    return found


def label_of(text: str) -> tuple[str, LabelValue]:
    """The label that `NAME=VALUE` or `NAME=VALUE,VALUE` names. Raises MedfuseError."""
    name, _, value = text.rpartition("=")
    numbers = value.split(",")
    if not name.strip() or not all(re.fullmatch(r"[0-9]{1,10}", number) for number in numbers):
        raise MedfuseError(
            f"--label {shortened(text)}: write it as NAME=VALUE, such as liver=1, or tumour=1,2,3"
        )
    return name, label_value(map(int, numbers))
