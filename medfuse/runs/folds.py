"""The folds of a cross-validation, judged and tidied together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from medfuse.runs.postprocess import choose, read_choice

if TYPE_CHECKING:
    from medfuse.report.evaluate import Evaluation


def choose_together(folders: Mapping[int, Path]) -> dict[str, Any]:
    """Postprocessing by the held-out cases of all folds (see runs.postprocess.choose)."""
    scores: dict[str, dict[str, Any]] = {"components": {}, "thresholds": {}}
    fold_of: dict[str, int] = {}
    for fold, folder in folders.items():
        own = read_choice(folder)
        assert own is not None, "each fold has just chosen for itself"
        for what, found in own["scores"].items():
            scores[what] = {**found, **scores[what]}
        fold_of = {**dict.fromkeys(own["scores"]["components"], fold), **fold_of}
    return choose(scores["components"], scores["thresholds"], fold_of)


def summarise_folds(evaluations: Mapping[int, Evaluation]) -> dict[str, Any]:
    """Every held-out case once, as `summarise` has it, and what the means of the folds say of each other.

    `folds`: fold → its cases and means. `between_folds`: label → mean and standard deviation (n - 1) of
    the folds' mean Dice; None where fewer than two folds have one.
    """
    from medfuse.report.summary import summarise

    first = next(iter(evaluations.values()))
    cases = {case.name: case for e in reversed([*evaluations.values()]) for case in e.cases}
    twice = sum(len(e.cases) for e in evaluations.values()) - len(cases)
    notes = [note for e in evaluations.values() for note in e.notes]
    if twice:
        notes.append(f"{twice} cases are held out by several folds; the first of them counts")
    merged = replace(
        first,
        cases=tuple(cases[name] for name in sorted(cases)),
        errors=tuple(line for e in evaluations.values() for line in e.errors),
        notes=tuple(dict.fromkeys(notes)),
    )
    parts = {fold: summarise(evaluation, intervals=False) for fold, evaluation in evaluations.items()}
    values = [str(value) for value in first.labels.values()]
    return {
        **summarise(merged),
        "folds": {
            str(fold): {
                "cases": [case["name"] for case in part["metric_per_case"]],
                "mean": part["mean"],
                "foreground_mean": part["foreground_mean"],
            }
            for fold, part in parts.items()
        },
        "between_folds": {
            **{value: _between(part["mean"][value]["Dice"] for part in parts.values()) for value in values},
            "foreground_mean": _between(part["foreground_mean"]["Dice"] for part in parts.values()),
        },
    }


def _between(found: Iterable[float | None]) -> dict[str, float | int | None]:
    known = [value for value in found if value is not None]
    return {
        "mean": mean(known) if known else None,
        "std": stdev(known) if len(known) > 1 else None,
        "n": len(known),
    }
