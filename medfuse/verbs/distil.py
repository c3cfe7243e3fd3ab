"""`medfuse distil`: a small network learns from a large one, and a table tells what that brought."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from medfuse.core.document import Document
from medfuse.core.errors import CheckpointError, DataError, MedfuseError, OutputError, PipelineError, Problem
from medfuse.core.files import make_folder, write_text
from medfuse.core.json_text import read_text
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.core.staged import STAGES
from medfuse.core.text import aligned, listed, number, typed
from medfuse.pipeline import Pipeline, Source, load_pipeline, yaml_of
from medfuse.planning.narrowed import Narrowed, compute_of, narrowed
from medfuse.report.candidates import MEAN, Candidate
from medfuse.report.compare import Comparison, compare
from medfuse.report.comparison_text import notes, verdict_rows
from medfuse.report.gap import Gap, gap_closed
from medfuse.runs.checked import checked
from medfuse.runs.folder import WEIGHTS
from medfuse.runs.problems import placed_split
from medfuse.runs.records import DATA, RESOLVED, TrainedOn, read_record
from medfuse.runs.run import located
from medfuse.runs.teacher_judged import judge_teacher
from medfuse.trained.facts import read_facts
from medfuse.trained.loading import EXPORTED, graph_of, read_weights, weights_file
from medfuse.verbs.compare import candidate_of, refuse_other_comparisons, write_comparison
from medfuse.verbs.trainings import Training, done

QUARTER = "1/4"
PLAN_FILE, SUMMARY = "plan.yaml", "summary.json"
_SAID = "with {:.1%} of its compute: numbers of channels are smaller by one factor."
_SILENT = ("train.teacher.weight=0", "train.teacher.maps={}")
"""What makes a pipeline with a teacher one that learns alone, from images that are scaled alike."""


@dataclass(frozen=True)
class _Work:
    """What is trained: the pipeline, what `--set` says of it, and the names of the runs."""

    pipeline: Pipeline
    overrides: tuple[str, ...]
    distilled: str
    alone: str


def distil_run(
    run: Path,
    *,
    into: str = QUARTER,
    overrides: Iterable[str] = (),
    runs: Path = Path("runs"),
    output: Path | None = None,
    baseline: bool = True,
    trust: Sequence[str] = (),
    retrain: bool = False,
    overwrite: bool = False,
    reporter: Reporter,
) -> Result:
    """Train the pipeline `into` with `run` as its teacher, and without where a `baseline` is wanted.

    into: a pipeline file, or a share of the compute of `run`, whose pipeline is then made narrower. What is
    finished is not trained again, unless it is to be (`retrain`). Raises MedfuseError, with all that is wrong
    at once, before anything is trained.
    """
    weights = weights_file(run, best=False)
    if weights.suffix in EXPORTED.values():
        raise CheckpointError(f"{weights}: was exported, and cannot teach; give the run that it comes from")
    folder, named = weights.parent, _name(weights.parent)
    if read_facts(weights, read_weights(weights)[1]).plan.is_second:
        raise CheckpointError(
            f"{weights}: is the second stage of a cascade, which cannot teach; give another run"
        )
    if share := _share(into):
        named = f"{named}-{share:.3g}"
        folder_of_result = output or runs / "distillations" / named
        made = _narrower(weights, share, trust, reporter)
        file = folder_of_result / PLAN_FILE
    else:
        file, made = Path(into), None
        folder_of_result = output or runs / "distillations" / f"{file.stem}-from-{named}"
    refuse_other_comparisons(folder_of_result, overwrite=overwrite)
    work = _work(made.pipeline if made else file, tuple(overrides), weights, trust)
    if made:
        text = f"# {folder / RESOLVED}, {_SAID.format(made.share)}\n{yaml_of(made.pipeline)}"
        _write_plan(file, text, overwrite=overwrite)
    trainings = {
        name: Training(
            file=file,
            overrides=(*work.overrides, *silent, f"name={name}"),
            runs=runs,
            folder=runs / name,
            retrain=retrain,
        )
        for name, silent in ((work.distilled, ()), *([(work.alone, _SILENT)] if baseline else []))
    }
    for name, training in trainings.items():
        reporter.say(f"{name}:")
        done(training, reporter)
    candidates = [candidate_of(name, [runs / name], trust) for name in reversed(trainings)]
    large = _large(weights, work, runs / work.distilled, folder_of_result, trust, reporter)
    return _told([*candidates, large], trainings, weights, folder_of_result, overwrite, trust)


def _name(folder: Path) -> str:
    """What a run is called: of a fold, with the name of what it is a fold of."""
    folder = folder.resolve()
    return f"{folder.parent.name}-{folder.name}" if folder.name.startswith("fold_") else folder.name


def _share(into: str) -> float | None:
    """A share in words: `1/4`, `0.25`, `25%`; None for what is a file. Raises MedfuseError for neither."""
    if Path(into).is_file():
        return None
    found = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?|\.\d{1,6})\s*(?:(%)|/\s*(\d{1,4}))?", into.strip())
    share = float(found[1]) / (100 if found[2] else float(found[3] or 1) or 1) if found else 0.0
    if not 0.005 <= share < 1:
        raise MedfuseError(
            f"--into {into[:120]}: is no file; give a pipeline file, or a share of the compute below 1, such "
            "as 1/4"
        )
    return share


def _narrower(weights: Path, share: float, trust: Sequence[str], reporter: Reporter) -> Narrowed:
    """The pipeline of the run that `weights` are of, with a share of its compute."""
    source = weights.parent / RESOLVED
    if not source.is_file():
        raise CheckpointError(
            f"{weights.parent}: has no {RESOLVED}, as a model from elsewhere, so that no narrower form of "
            "its pipeline can be made; write one, and give it: --into PLAN.yaml"
        )
    graph = graph_of(weights, trust)
    made = narrowed(Document.load(source), graph.image, graph.classes, share)
    reporter.say(f"planned: {made.share:.1%} of the compute of {weights.parent}")
    if frozen := [glob for glob, part in made.pipeline.train.parts.items() if part.freeze == "always"]:
        raise MedfuseError(
            f"{source}: freezes {listed(frozen)}, which in a narrower form would stand still with fresh "
            "weights; write a smaller pipeline, and give it: --into PLAN.yaml"
        )
    train = made.pipeline.train.model_copy(update={"teacher": None})
    named = {"name": f"{_name(weights.parent)}-{share:.3g}", "search": None, "train": train}
    return replace(made, pipeline=made.pipeline.model_copy(update=named))


def _write_plan(file: Path, text: str, *, overwrite: bool) -> None:
    """The plan, for people to look at, below its hash. Raises OutputError where somebody changed it."""
    if file.is_file() and not overwrite:
        first, _, rest = read_text(file, raises=OutputError).partition("\n")
        if first != _seal(rest):
            raise OutputError(
                f"{file}: was changed since it was planned; to train what it says now, give --into "
                f"{typed(file)}, or replace it by --overwrite"
            )
    make_folder(file.parent)
    write_text(file, f"{_seal(text)}\n{text}")


def _seal(text: str) -> str:
    return (
        f"# planned by medfuse distil; SHA-256 of what follows: {hashlib.sha256(text.encode()).hexdigest()}"
    )


def _work(source: Source, given: tuple[str, ...], weights: Path, trust: Sequence[str]) -> _Work:
    """What is to be trained, once it is found sound. Raises PipelineError with all problems at once."""
    own = [f"train.teacher.run={json.dumps(str(weights.resolve()))}"]
    own += [f"train.teacher.trust={json.dumps([*trust])}"] if trust else []
    overrides = (*given, *own)
    if isinstance(source, Path) and STAGES in (staged := Document.load(source)).data:
        message = "are two networks, and one is taught; give a plan of one"
        raise staged.located(PipelineError([Problem((STAGES,), message, at_key=True)]))
    pipeline, document = load_pipeline(source, overrides)
    problems: list[Problem] = []
    with located(document):
        try:
            info = checked(pipeline).info
        except PipelineError as error:
            problems += error.problems
            try:
                info = pipeline.data.read()
            except MedfuseError:  # which is among the problems
                raise error from None
        problems += _split_problems(pipeline, info, weights.parent)
        if problems:
            raise PipelineError([*dict.fromkeys(problems)])
    base = re.sub(r"[^\w.-]+", "_", pipeline.name)
    ending = f"fold{pipeline.split.fold}-seed{pipeline.seed}"
    return _Work(pipeline, overrides, f"{base}-distilled-{ending}", f"{base}-alone-{ending}")


def _split_problems(pipeline: Any, info: Any, teacher: Path) -> list[Problem]:
    """Held-out cases that are others than the teacher's, so that one table could not hold both."""
    if pipeline.split.fold == "all":
        message = (
            "all: nothing is held out, so there is nothing to tell by; choose the teacher's fold, or train "
            "it by `medfuse run` with train.teacher"
        )
        return [Problem(("split", "fold"), message)]
    record = teacher / DATA
    if not record.is_file() or pipeline.split.stratify:
        return []
    ours, theirs = placed_split(pipeline, info), read_record(TrainedOn, record).split
    if not theirs.validation:
        message = f"{teacher} was trained on all cases, so none can judge its student; give the run of a fold"
        return [Problem(("split", "fold"), message)]
    if {*ours.validation} == {*theirs.validation}:
        return []
    message = (
        f"holds out {listed(sorted(ours.validation), 5)}, and {teacher} held out "
        f"{listed(sorted(theirs.validation), 5)}; take the same split (--set split.fold=N)"
    )
    return [Problem(("split", "fold"), message)]


def _large(
    weights: Path, work: _Work, student: Path, folder: Path, trust: Sequence[str], reporter: Reporter
) -> Candidate:
    """The teacher as its own run judged it; others are judged by the cases that their student held out."""
    if (weights.parent / SUMMARY).is_file() and weights.name == WEIGHTS:
        return candidate_of(_name(weights.parent), [weights.parent], trust)
    place = folder / "teacher"
    reporter.say(f"{weights}: no run has judged it; judged in {place}")
    judge_teacher(weights, work.pipeline, student, place, trust=trust, reporter=reporter)
    found = candidate_of(_name(weights.parent), [place], trust, weights=weights)
    return replace(found, seconds=None, steps=None)


def _told(
    candidates: Sequence[Candidate],
    trainings: Mapping[str, Training],
    weights: Path,
    folder: Path,
    overwrite: bool,
    trust: Sequence[str],
) -> Result:
    """The table, its files, and what a program is told."""
    try:
        comparison = compare(candidates)
    except (ValueError, KeyError) as error:
        raise DataError(f"{weights.parent}: cannot be compared with its student: {error}") from error
    places = {name: training.folder for name, training in trainings.items()}
    compute = {name: _compute(place / WEIGHTS, trust) for name, place in places.items()}
    compute[candidates[-1].name] = _compute(weights, trust)
    gaps: list[Gap] = []
    if len(candidates) == 3:
        alone, distilled, large = candidates
        found = (gap_closed(large, alone, distilled, label) for label in comparison.labels)
        gaps = [gap for gap in found if gap is not None]
    said = [gap.text(candidates[-1].name, candidates[0].name) for gap in gaps if gap.label == MEAN]
    sources = [*said, *(f"{name}: {place}" for name, place in places.items()), f"teacher: {weights.parent}"]
    more = {
        "said": said,
        "compute": compute,
        "gaps": [gap.to_json() for gap in gaps],
        "teacher": str(weights.parent),
    }
    values, page = write_comparison(folder, comparison, sources, more, overwrite=overwrite)
    lines = [
        aligned(_rows(comparison, compute)),
        "",
        *([aligned(verdict_rows(comparison)), ""] if comparison.differences else []),
        *said,
        *notes(comparison, "the same command with --set seed=2 trains others, which `medfuse compare` reads"),
        "",
        *(f"{name}: {place}" for name, place in places.items()),
        f"page: {folder / 'comparison.html'}",
    ]
    told = {"folder": folder, **values, "runs": places}
    return Result("\n".join(lines), told, page=lambda: page, rows=comparison.rows, found=comparison)


def _compute(weights: Path, trust: Sequence[str]) -> float:
    """Multiply-adds for each voxel of a patch."""
    graph = graph_of(weights, trust)
    return compute_of(graph) / 2 / prod(graph.image.patch_size)


def _rows(comparison: Comparison, compute: dict[str, float]) -> list[list[str]]:
    """Large, small, distilled: Dice with its interval, and what it costs."""
    rows = [
        [
            "model",
            MEAN,
            "95 %",
            "cases",
            "multiply-adds/voxel",
            "of the large",
            "parameters",
            "s/case",
            "minutes",
        ]
    ]
    *_, last = comparison.candidates
    for c in reversed(comparison.candidates):
        interval = c.interval(MEAN)
        share = compute[c.name] / compute[last.name]
        rows.append(
            [
                c.name,
                number(c.mean(MEAN), 4),
                "" if interval is None else interval.limits_text().strip(),
                str(c.n(MEAN)),
                f"{compute[c.name]:,.0f}",
                f"{share:.1%}",
                "–" if c.parameters is None else f"{c.parameters:,}",
                number(c.seconds_per_case, 2),
                number(None if c.seconds is None else c.seconds / 60, 1),
            ]
        )
    return rows
