"""`overlap: auto`: the least overlap of windows that costs held-out cases nothing, within a bound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from medfuse.core.errors import CheckpointError
from medfuse.core.files import reported, write_json
from medfuse.core.json_text import read_json, validated
from medfuse.infer.settings import USUAL_OVERLAP
from medfuse.trained.loading import load_trained

if TYPE_CHECKING:
    from medfuse.runs.run import Run

FILE = "overlap.json"
SMALLER = (0.375, 0.25, 0.125)
"""What is tried, until one of them costs a label more than the bound."""
BOUND = 0.001
"""Of the drop of a label's Dice, at the upper end of its interval over patients."""
FEWEST_PATIENTS = 2
_REMEDY = "remove it, and run the pipeline again to choose anew"

Scores = dict[str, dict[str, dict[str, float | None]]]
"""Case → overlap → label → Dice; None where neither the case nor its label map at any overlap has it."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Row(_Part):
    """The drop of a label's Dice at an overlap, in the mean over patients; `high`: how far it may fall."""

    overlap: float
    label: str
    patients: int
    drop: float
    high: float | None
    bears: bool


class Choice(_Part):
    """overlap.json. `windows`: the share that is run of those at the usual overlap."""

    overlap: float = Field(ge=0, lt=1)
    bound: float
    windows: float
    rows: tuple[Row, ...]
    scores: Scores
    counts: dict[str, int]
    patients: dict[str, str]

    def said(self) -> str:
        """The choice in a line."""
        held = f"n = {len(self.scores)} held-out cases, bound {self.bound:g}"
        worst = max((row for row in self.rows if not row.bears), key=_end, default=None)
        if self.overlap == USUAL_OVERLAP:
            return f"overlap: stays at {USUAL_OVERLAP:g}{_refused(worst)} ({held})"
        taken = [row for row in self.rows if row.overlap == self.overlap]
        most = max(taken, key=_end)
        return (
            f"overlap: {self.overlap:g} in place of {USUAL_OVERLAP:g}, {self.windows:.0%} of the windows: "
            f"Dice of {most.label}, which falls most, falls by {most.drop:.4f}, and by at most "
            f"{_end(most):.4f} on other cases{_refused(worst)} ({held}); every other number is at "
            f"{USUAL_OVERLAP:g}, and `medfuse infer` takes the choice for new scans"
        )


def _end(row: Row) -> float:
    return float("inf") if row.high is None else row.high


def _refused(row: Row | None) -> str:
    if row is None:
        return ""
    if row.high is None:
        return (
            f"; {row.patients} patient{'s have' if row.patients != 1 else ' has'} {row.label}, too few to say"
        )
    return f"; at {row.overlap:g} that of {row.label} falls by up to {row.high:.4f}"


def choose_overlap(run: Run) -> tuple[str, ...]:
    """Where it is left to the held-out cases: what they chose, which is written down too."""
    if run.pipeline.infer.overlap != "auto":
        return ()
    from medfuse.data.split import patients

    scores, counts = _scores(run)
    made = choose(scores, counts, patients(run.info.cases, run.pipeline.split))
    write_choice(run.folder, made)
    return (made.said(),)


def _scores(run: Run) -> tuple[Scores, dict[str, int]]:
    """Dice of final label maps, as `infer` makes them, at the usual overlap and smaller ones."""
    import numpy as np

    from medfuse.core.labels import mask_of
    from medfuse.data.images import read_case_labels
    from medfuse.runs.postprocess import dice

    trained = load_trained(
        [run.folder / "weights_last.safetensors"],
        device=run.pipeline.train.device,
        settings=run.pipeline.infer,
        own=run.pipeline.model,
    )
    plan, names = trained.plan, run.split.validation
    ignored = () if plan.ignore is None else (plan.ignore,)
    labels = {name: value for name, value in plan.labels.items() if value != 0}
    scores: Scores = {}
    counts = dict.fromkeys(map(_key, (USUAL_OVERLAP, *SMALLER)), 0)
    with run.reporter.track("trying overlaps", len(names)) as advance:
        for done, name in enumerate(names, 1):
            case = run.cases[name]
            prepared = trained.prepare(case)
            tolerance = run.pipeline.preprocess.tolerance_mm
            known = (*plan.values, *ignored)
            truth = read_case_labels(case, prepared.geometry, known, tolerance_mm=tolerance)
            counted = ~np.isin(truth, ignored)
            masks = {label: mask_of(truth, value) & counted for label, value in labels.items()}
            found: dict[str, dict[str, float | None]] = {}
            there = {label for label, mask in masks.items() if mask.any()}
            for overlap in (USUAL_OVERLAP, *SMALLER):
                made, windows = trained.decided(prepared, overlap)
                counts[_key(overlap)] += windows
                own = {label: mask_of(made, value) & counted for label, value in labels.items()}
                there |= {label for label, mask in own.items() if mask.any()}
                found[_key(overlap)] = {label: dice(own[label], masks[label]) for label in labels}
            scores[name] = {
                overlap: {label: value if label in there else None for label, value in row.items()}
                for overlap, row in found.items()
            }
            advance(done, name)
    return scores, counts


def _key(overlap: float) -> str:
    return f"{overlap:g}"


def choose(
    scores: Scores, counts: Mapping[str, int], patients: Mapping[str, str], bound: float = BOUND
) -> Choice:
    """The smallest overlap at which no label's Dice falls by more than `bound`, at the upper end of its
    interval, nor at a larger one."""
    rows: list[Row] = []
    chosen = USUAL_OVERLAP
    for overlap in SMALLER:
        own = [_row(scores, patients, overlap, label, bound) for label in _labels(scores)]
        rows += own
        if not own or not all(row.bears for row in own):
            break
        chosen = overlap
    return Choice(
        overlap=chosen,
        bound=bound,
        windows=round(counts[_key(chosen)] / max(1, counts[_key(USUAL_OVERLAP)]), 4),
        rows=tuple(rows),
        scores=scores,
        counts=dict(counts),
        patients={name: patients.get(name, name) for name in scores},
    )


def _labels(scores: Scores) -> list[str]:
    """Those that some case has."""
    found = (row.items() for case in scores.values() for row in case.values())
    return [*dict.fromkeys(label for row in found for label, value in row if value is not None)]


def _row(scores: Scores, patients: Mapping[str, str], overlap: float, label: str, bound: float) -> Row:
    from medfuse.report.intervals import mean_interval

    drops, whose = [], []
    for name, case in scores.items():
        usual, less = case[_key(USUAL_OVERLAP)][label], case[_key(overlap)][label]
        if usual is not None and less is not None:
            drops.append(usual - less)
            whose.append(patients.get(name, name))
    interval = mean_interval(drops, whose, bounds=None)
    assert interval is not None, "some case has the label"
    few = interval.patients < FEWEST_PATIENTS
    high = None if few else round(interval.ends()[1], 6)
    return Row(
        overlap=overlap,
        label=label,
        patients=interval.patients,
        drop=round(interval.value, 6),
        high=high,
        bears=high is not None and high <= bound,
    )


def choose_together(choices: Iterable[Choice]) -> Choice:
    """By the held-out cases of all folds; of a case that several hold out, the first counts."""
    known = [*choices]
    scores = {name: case for choice in reversed(known) for name, case in choice.scores.items()}
    patients = {name: patient for choice in known for name, patient in choice.patients.items()}
    counts = {key: sum(choice.counts[key] for choice in known) for key in known[0].counts}
    return choose(scores, counts, patients)


def write_choice(folder: Path, choice: Choice) -> None:
    write_json(folder / FILE, choice.model_dump(mode="json"))


def forget_choice(folder: Path) -> None:
    with reported(folder):
        (folder / FILE).unlink(missing_ok=True)


def read_choice(folder: Path) -> Choice | None:
    """What was chosen for the run in `folder`; None where nothing was. Raises CheckpointError."""
    path = folder / FILE
    if not path.exists():
        return None
    found = read_json(path, raises=CheckpointError, remedy=_REMEDY)
    return validated(Choice, found, str(path), raises=CheckpointError, remedy=_REMEDY)


def overlap_for(weights: Sequence[Path]) -> float | None:
    """What was chosen for the one run or weights file that is given; None for several."""
    if len(weights) != 1:
        return None
    chosen = read_choice(weights[0] if weights[0].is_dir() else weights[0].parent)
    return chosen.overlap if chosen else None
