"""A teacher that no run of its own has judged, by the cases that its student holds out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medfuse.core.errors import DataError
from medfuse.core.files import make_folder
from medfuse.core.reporter import Reporter
from medfuse.pipeline import Pipeline
from medfuse.runs.records import DATA, TrainedOn, read_record
from medfuse.runs.run import read_dataset
from medfuse.trained.loading import load_trained


def judge_teacher(
    weights: Path,
    pipeline: Pipeline,
    student: Path,
    folder: Path,
    *,
    trust: Sequence[str] = (),
    reporter: Reporter,
) -> None:
    """predictions and summary.json in `folder`, of the cases that the run `student` of `pipeline` held out.

    What is predicted already stays. Raises DataError where a case fails.
    """
    from medfuse.data.split import patients
    from medfuse.infer.cases import output_name
    from medfuse.report.evaluate import evaluate_pairs
    from medfuse.report.pairs import Pair
    from medfuse.report.summary import write_summary

    info = read_dataset(pipeline)
    names = read_record(TrainedOn, student / DATA).validation
    by_name, patient_of = {case.name: case for case in info.cases}, patients(info.cases, pipeline.split)
    cases = [by_name[name] for name in names]
    trained = load_trained([weights], device=pipeline.train.device, trust=trust)
    predictions = make_folder(folder) / "predictions"
    outcome = replace(trained, calibration=None).infer(cases, predictions, reporter)
    left = {name: f"{reason}; move it away" for name, reason in outcome.left.items()}
    if faults := {**outcome.failed, **left}:
        raise DataError(*(f"{name}: {reason}" for name, reason in faults.items()))
    pairs = [
        Pair(c.name, predictions / output_name(c), c.label, whose if whose != c.name else None)
        for c in cases
        if c.label and (whose := patient_of[c.name])
    ]
    judged = evaluate_pairs(
        pairs,
        info.labels,
        ignore=info.ignore,
        tolerance_mm=pipeline.preprocess.tolerance_mm,
        reporter=reporter,
    )
    write_summary(folder / "summary.json", judged)
