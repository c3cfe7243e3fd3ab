"""What a cross-validation tells of the quality of label maps: scores of held-out cases against their Dice."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import medfuse
from medfuse.core.files import file_hash, write_text
from medfuse.core.text import number
from medfuse.infer.manifest import NAME as MANIFEST
from medfuse.infer.manifest import read_manifest
from medfuse.quality.calibration import JudgedCase, by_name
from medfuse.quality.conformal import FEWEST, LEVEL
from medfuse.quality.grain import NAME as GRAIN
from medfuse.quality.grain import usual_grain
from medfuse.quality.honesty import OURS, Honesty, judged
from medfuse.quality.scores import CASE_SCORES, SCORES
from medfuse.quality.stored import NAME, SETTINGS, StoredCalibration, write_calibration
from medfuse.quality.usual import UsualNumbers
from medfuse.report.risk import write_quality_report

if TYPE_CHECKING:
    from medfuse.infer.settings import InferSettings
    from medfuse.report.evaluate import Evaluation

TABLE = "quality_out_of_fold.csv"
REPORT = "quality.html"

Cases = Mapping[str, Sequence[JudgedCase]]
"""Class → the cases in which the networks found something of it."""


def judged_cases(
    folders: Mapping[int, Path], evaluations: Mapping[int, Evaluation], patients: Mapping[str, str]
) -> dict[str, list[JudgedCase]]:
    """The held-out cases of all folds, each once. Those whose predictions are from before there were scores
    are left out."""
    found: dict[str, list[JudgedCase]] = {}
    seen: set[str] = set()
    for fold, folder in folders.items():
        _, manifest = read_manifest(folder / "predictions" / MANIFEST)
        entries = manifest.get("cases", {})
        for case in evaluations[fold].cases:
            if case.name in seen:
                continue
            seen.add(case.name)
            entry = entries.get(case.name, {})
            for name, metrics in case.metrics.items():
                scores = entry.get("quality", {}).get(name)
                if scores and scores.get("volume_ml") and metrics.dice is not None:
                    row = {**_numbers(scores), **_numbers(entry.get("case_quality", {}))}
                    group = patients.get(case.name, case.name)
                    found.setdefault(name, []).append(
                        JudgedCase(case.name, row, metrics.dice, group, str(fold))
                    )
    return found


def _numbers(scores: Mapping[str, Any]) -> dict[str, float | None]:
    known = {score.name for score in (*SCORES, *CASE_SCORES)}
    return {name: value for name, value in scores.items() if name in known}


def calibrate_together(
    folder: Path,
    folders: Mapping[int, Path],
    evaluations: Mapping[int, Evaluation],
    patients: Mapping[str, str],
    settings: InferSettings,
) -> tuple[dict[str, Any], list[str]]:
    """Write quality.json, the table of cases and the page of curves into `folder`.

    What summary.json is to say of it, and the lines for people. Nothing where no case has scores.
    """
    cases = judged_cases(folders, evaluations, patients)
    calibration = by_name(cases)
    if not calibration:
        return {}, []
    honesty = {name: one for name in calibration if (one := judged(cases[name])) is not None}
    told = {name: summary_of(one) for name, one in honesty.items()}
    weights = tuple(file_hash(one / "weights_last.safetensors") for one in folders.values())
    how = {name: getattr(settings, name) for name in SETTINGS}
    stored = StoredCalibration(calibration, weights, how, told, grain_among(cases))
    write_text(folder / TABLE, table_of(cases))
    write_quality_report(folder / REPORT, folder.name, honesty)
    write_calibration(folder / NAME, stored, by=medfuse.__version__)
    return told, [*lines(stored, honesty), f"quality:     {folder / REPORT}"]


def grain_among(cases: Cases) -> UsualNumbers | None:
    """What is usual of the images of cases, each of which counts once."""
    by_case = {case.name: case.scores.get(GRAIN) for own in cases.values() for case in own}
    return usual_grain([one for one in by_case.values() if one is not None])


def summary_of(one: Honesty) -> dict[str, Any]:
    """For JSON, without the curves."""
    return {
        "cases": one.cases,
        "aurc": {name: asdict(area) for name, area in one.areas.items()},
        "aurc_less": {name: asdict(ahead) for name, ahead in one.ahead.items()},
        "bounded": one.bounded,
        "covered": one.covered,
    }


def lines(stored: StoredCalibration, honesty: Mapping[str, Honesty]) -> list[str]:
    """A line for each class: what its calibration is worth."""
    made = []
    for name, one in stored.classes.items():
        if one.quantile is None:
            made.append(
                f"quality {name}: expected Dice without a bound, as {one.groups} cases were judged and "
                f"{FEWEST} are needed"
            )
        elif name in honesty:
            told = honesty[name]
            others = ", ".join(
                f"{other} {number(told.areas[other].value)}" for other in told.areas if other != OURS
            )
            covered = (
                "" if told.covered is None else f"; {told.covered:.0%} of cases at their {LEVEL:.0%} bound"
            )
            made.append(
                f"quality {name}: area under risk and coverage {number(told.areas[OURS].value)} "
                f"({others}){covered} (n = {told.cases})"
            )
    return made


def table_of(cases: Cases) -> str:
    """A row for each class of each held-out case: scores, and the Dice that it had."""
    names = [score.name for score in (*SCORES, *CASE_SCORES)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "patient", "fold", "class", "dice", *names])
    for label, own in cases.items():
        for case in own:
            values = ["" if case.scores.get(name) is None else case.scores[name] for name in names]
            writer.writerow([case.name, case.group, case.part, label, case.dice, *values])
    return text.getvalue()
