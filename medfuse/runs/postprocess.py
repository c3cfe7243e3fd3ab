"""`postprocess: auto`: which steps raise Dice on held-out cases, and how much of that is to be believed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from medfuse.core.errors import CheckpointError
from medfuse.core.files import write_json
from medfuse.core.json_text import read_json, validated
from medfuse.core.reporter import Reporter
from medfuse.core.text import number
from medfuse.infer.settings import PostprocessSettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from medfuse.core.labels import LabelValue
    from medfuse.report.pairs import Pair

FILE = "postprocess.json"
SIZES_ML = (0.01, 0.1, 1.0)
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
NOTHING = "nothing"
HALF = "threshold 0.5"

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]
"""case → label → step → Dice; 1 where a label is in neither map, so that every mean is over all cases."""


def candidates(label: str) -> dict[str, PostprocessSettings]:
    """The steps that are tried for a label, the plainest first."""
    sizes = {f"at least {ml:g} ml": {"minimum_ml": {label: ml}} for ml in SIZES_ML}
    simple: dict[str, dict[str, Any]] = {"largest component": {"largest_component": (label,)}, **sizes}
    holes: dict[str, dict[str, Any]] = {
        "holes filled": {"fill_holes": (label,)},
        **{f"{name}, holes filled": {**made, "fill_holes": (label,)} for name, made in simple.items()},
    }
    return {
        name: PostprocessSettings.model_validate(made)
        for name, made in {NOTHING: {}, **simple, **holes}.items()
    }


def component_scores(
    pairs: Sequence[Pair],
    labels: Mapping[str, LabelValue],
    region_order: Sequence[int],
    ignore: int | None,
    reporter: Reporter,
) -> Scores:
    """Dice of every candidate step of every label, each label by itself. Predictions must be there."""
    from medfuse.core.labels import mask_of
    from medfuse.infer.postprocess import tidy
    from medfuse.volumes.read import read_labels

    scores: dict[str, dict[str, dict[str, float]]] = {}
    with reporter.track("trying postprocessing", len(pairs)) as advance:
        for done, pair in enumerate(pairs, 1):
            prediction, reference = read_labels(pair.prediction), read_labels(pair.reference).array
            known = reference != ignore
            own = scores[pair.name] = {}
            for name, value in labels.items():
                if value == 0:
                    continue
                truth, ml = mask_of(reference, value) & known, prediction.geometry.voxel_ml
                own[name] = {
                    step: dice(
                        mask_of(tidy(prediction.array, made, labels, region_order, ml), value) & known, truth
                    )
                    for step, made in candidates(name).items()
                }
            advance(done, pair.name)
    return scores


def dice(mask: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Dice of two masks; 1 where both are empty, as that is right."""
    size = int(mask.sum()) + int(truth.sum())
    return 2 * int((mask & truth).sum()) / size if size else 1.0


def choose(
    components: Scores, thresholds: Scores, fold_of: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """The contents of postprocess.json: the steps to take, and what each of them did.

    Of every label the step with the highest mean Dice is `chosen`, if that is above the mean of doing
    nothing. `before` and `after` are those means over the cases that it was chosen by, so `after` flatters.
    `held_out`, where `fold_of` tells the fold of each case, is the mean over all cases with the step that
    the other folds' cases would have chosen: that is what to expect of new scans.
    """
    tables = {"components": (components, NOTHING), "thresholds": (thresholds, HALF)}
    rows: list[dict[str, Any]] = []
    steps: dict[str, Any] = {"largest_component": [], "fill_holes": [], "minimum_ml": {}, "threshold": {}}
    for what, (scores, nothing) in tables.items():
        for label in dict.fromkeys(name for case in scores.values() for name in case):
            cases = {case: found[label] for case, found in scores.items()}
            best, means = _best(cases.values(), nothing)
            row = {"label": label, "what": what, "chosen": best, "cases": len(cases), "means": means}
            row |= {"before": means[nothing], "after": means[best], "held_out": None}
            if fold_of and len({fold_of[case] for case in cases}) > 1:
                row["held_out"] = _held_out(cases, fold_of, nothing)
            rows.append(row)
            _add(steps, label, best)
    return {
        "steps": steps,
        "labels": rows,
        "scores": {"components": components, "thresholds": thresholds},
        "words": "Dice is 1 where a label is in neither map. `after` is on the cases that chose the step, "
        "which flatters it; `held_out` is on cases that had no part in the choice",
    }


def said(chosen: Mapping[str, Any]) -> list[str]:
    """One line for every step that is taken; one if there is none."""
    lines = []
    for row in chosen["labels"]:
        if row["before"] == row["after"]:
            continue
        honest = "on the same cases, which flatters it"
        if row["held_out"] is not None:
            honest += f"; {number(row['held_out'])} where other folds chose"
        lines.append(
            f"postprocess {row['label']}: {row['chosen']}: Dice {number(row['before'])} → "
            f"{number(row['after'])} (n = {row['cases']}, {honest})"
        )
    lines = lines or ["postprocess: no step raises Dice on the held-out cases, so none is taken"]
    return [*lines, "every other number is before postprocessing; `medfuse infer` applies it to new scans"]


def write_choice(folder: Path, chosen: Mapping[str, Any]) -> None:
    write_json(folder / FILE, dict(chosen))


class _Choice(BaseModel):
    """postprocess.json, as far as it is read again."""

    steps: PostprocessSettings
    scores: dict[Literal["components", "thresholds"], dict[str, dict[str, dict[str, float]]]]


def read_choice(folder: Path) -> dict[str, Any] | None:
    """What was chosen for the run in `folder`; None where nothing was. Raises CheckpointError."""
    path, remedy = folder / FILE, "remove it, and run the pipeline again to choose anew"
    if not path.exists():
        return None
    found: dict[str, Any] = read_json(path, raises=CheckpointError, remedy=remedy)
    validated(_Choice, found, str(path), raises=CheckpointError, remedy=remedy)
    return found


def steps_for(weights: Sequence[Path]) -> PostprocessSettings | None:
    """What was chosen for the one run or weights file that is given; None for several."""
    if len(weights) != 1:
        return None
    folder = weights[0] if weights[0].is_dir() else weights[0].parent
    chosen = read_choice(folder)
    return PostprocessSettings.model_validate(chosen["steps"]) if chosen else None


def _best(cases: Iterable[Mapping[str, float]], nothing: str) -> tuple[str, dict[str, float]]:
    """The step with the highest mean, `nothing` where none is above it; the mean of each."""
    found = [*cases]
    means = {step: mean(case[step] for case in found) for step in found[0]}
    best = max(means, key=lambda step: means[step])  # the first of equals, which is the plainest
    return (best if means[best] > means[nothing] + 1e-9 else nothing), means


def _held_out(cases: Mapping[str, Mapping[str, float]], fold_of: Mapping[str, int], nothing: str) -> float:
    """The mean over cases, each with the step that cases of other folds choose."""
    found = []
    for fold in {fold_of[case] for case in cases}:
        best, _ = _best((case for name, case in cases.items() if fold_of[name] != fold), nothing)
        found += [case[best] for name, case in cases.items() if fold_of[name] == fold]
    return mean(found)


def _add(steps: dict[str, Any], label: str, chosen: str) -> None:
    """Adds a label's chosen step to `steps`."""
    if chosen.startswith("threshold "):
        if chosen != HALF:
            steps["threshold"][label] = float(chosen.removeprefix("threshold "))
        return
    made = candidates(label)[chosen]
    steps["largest_component"] += made.largest_component
    steps["fill_holes"] += made.fill_holes
    steps["minimum_ml"] |= made.minimum_ml
