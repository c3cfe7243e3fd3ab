"""The first stage of a cascade, trained out of fold, and what the second stage is told of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medfuse.api import Case, DatasetInfo, Split
from medfuse.core.errors import DataError, MedfuseError, PipelineError, Problem
from medfuse.core.files import file_hash, make_folder, reported, write_json
from medfuse.core.processes import processes
from medfuse.core.staged import STAGES, finer
from medfuse.data.focus import Choice, Focus, lost_of
from medfuse.data.split import draw_balanced_folds, draw_folds, patients
from medfuse.pipeline import Pipeline, plan_network
from medfuse.runs.beginning import Planned
from medfuse.runs.folder import WEIGHTS, clear, fold_folders
from medfuse.runs.judging import predict_held_out
from medfuse.runs.records import PLAN
from medfuse.runs.run import Run, open_run, refuse_changes, refuse_soon
from medfuse.runs.stages import Judged, do_stages, filled_store, prepare
from medfuse.runs.tracking import Trackers
from medfuse.runs.training import train
from medfuse.runs.two_stages import first_dataset
from medfuse.trained.loading import BEFORE, first_stage_weights, load_trained

if TYPE_CHECKING:
    from medfuse.data.prepare import Preprocessor
    from medfuse.trained.trained import Trained

SPLITS = "splits.json"
_CHANGED = "the weights of the first stage are others than those that it was trained after"


def do_cascade(run: Run) -> Judged:
    """Both stages, each of which carries on where an earlier process stopped."""
    if processes() > 1:
        raise MedfuseError(f"{STAGES}: are trained by one process; leave out --devices")
    planned = prepare(run)
    run = replace(run, split=planned.split)
    coarse = _pipelines(run)
    info = _training_cases(first_dataset(run.pipeline, run.info), planned.split)
    _refuse_finer(coarse[0], planned)
    folder = run.folder / BEFORE
    if run.kept:
        _refuse_another(run, coarse, info)
    elif run.retrain:
        clear(run.folder)
    if run.starts:
        _forget_others(folder, len(coarse))
    _say_minutes(run, coarse)
    write_json(make_folder(folder) / SPLITS, [_as_json(split) for split in _folds(run)])
    choice: Choice | None = None
    for number, pipeline in enumerate(coarse):
        choice = _one_fold(run, pipeline, info, folder / _name(number), planned, choice)
    files = first_stage_weights(run.folder / WEIGHTS)
    assert choice is not None
    assert run.pipeline.first is not None
    together = load_trained(
        files,
        device=run.pipeline.train.device,
        settings=run.pipeline.first.infer,
        own=run.pipeline.first.model,
    )
    lost = planned.plan.focus is None and not run.starts
    planned = _told(run, planned, choice, together, files)
    if lost:  # and was written anew by `prepare`, which does not know the first stage
        graph = plan_network(run.pipeline, planned.plan.image, len(planned.plan.classes))
        write_json(run.folder / PLAN, {"data": planned.plan.to_json(), "graph": graph.rows()})
    return do_stages(run, planned=planned, notes=[*_lines(run, planned, together)])


def _pipelines(run: Run) -> list[Pipeline]:
    """The first stage as it is trained without each part of the training cases, its minutes shared."""
    first, cascade = run.pipeline.first, run.pipeline.cascade
    assert first is not None
    assert cascade is not None
    file = run.folder / BEFORE / SPLITS
    minutes = first.train.minutes and first.train.minutes / cascade.folds
    training = first.train.model_copy(update={"minutes": minutes})
    return [
        first.model_copy(
            update={
                "split": run.pipeline.split.model_copy(
                    update={"file": file, "fold": number, "folds": cascade.folds, "stratify": False}
                ),
                "train": training,
            }
        )
        for number in range(cascade.folds)
    ]


def _folds(run: Run) -> Sequence[Split]:
    """The training cases in parts that keep a patient together. Raises PipelineError where they are few."""
    assert run.pipeline.cascade is not None
    settings, folds = run.pipeline.split, run.pipeline.cascade.folds
    known = patients(run.info.cases, settings)
    patient_of = {name: known[name] for name in run.split.train}
    if (units := len({*patient_of.values()})) < folds:
        what = f"{units} training case{'s' * (units != 1)}, or patients with such"
        raise PipelineError(
            [Problem(("cascade", "folds"), f"is {folds}, and there are {what}; give more, or fewer folds")]
        )
    if len({*patient_of.values()}) < len(patient_of):
        return draw_balanced_folds(patient_of, folds, settings.seed, {})
    return draw_folds([*patient_of], folds, settings.seed)


def _training_cases(info: DatasetInfo, split: Split) -> DatasetInfo:
    """The dataset without what the second stage is judged by."""
    cases = tuple(case for case in info.cases if case.name in {*split.train})
    return replace(info, cases=cases, splits=(), notes=())


def _as_json(split: Split) -> dict[str, Any]:
    return {"train": list(split.train), "val": list(split.validation)}


def _name(fold: int) -> str:
    return f"fold_{fold}"


def _refuse_finer(first: Pipeline, planned: Planned) -> None:
    """Where the second stage's spacing was planned. Raises PipelineError."""
    coarse = first.preprocess.spacing_mm
    if coarse != "auto" and (message := finer(coarse, planned.plan.spacing_mm)):
        raise PipelineError([Problem((STAGES, 0, "preprocess", "spacing_mm"), message)])


def _forget_others(folder: Path, folds: int) -> None:
    """Remove what an earlier start left that had more folds, as every fold there is sees new scans."""
    with reported(folder):
        for path in fold_folders(folder):
            if int(path.name.removeprefix("fold_")) >= folds:
                shutil.rmtree(path)


def _refuse_another(run: Run, coarse: Sequence[Pipeline], info: DatasetInfo) -> None:
    """Raises MedfuseError where the first stage is not the one that the second learned after, or is to be
    trained further."""
    from medfuse.train.budget import Budget
    from medfuse.train.state import how_far

    assert run.kept is not None
    files = first_stage_weights(run.folder / WEIGHTS)
    if run.kept.before != tuple(map(file_hash, files)):
        refuse_changes(run.folder, [_CHANGED])
    for pipeline, file in zip(coarse, files):
        refuse_soon(pipeline, info, file.parent)
        spent = how_far(file.parent)
        if not Budget.of(pipeline.train).is_spent(spent.step, spent.seconds):
            refuse_changes(run.folder, [f"the first stage is to be trained for {Budget.of(pipeline.train)}"])


def _say_minutes(run: Run, coarse: Sequence[Pipeline]) -> None:
    from medfuse.train.budget import Budget

    shared = " each, of the minutes that they share" if coarse[0].train.minutes else " each"
    run.reporter.say(
        f"first stage: {len(coarse)} networks, each without a part of the {len(run.split.train)} training "
        f"cases: {Budget.of(coarse[0].train)}{shared}"
    )


def _one_fold(
    run: Run, pipeline: Pipeline, info: DatasetInfo, folder: Path, second: Planned, choice: Choice | None
) -> Choice:
    """Train the first stage without one part of the cases, segment those, and count what they would lose."""
    run.reporter.say(f"first stage, {folder.name}:")
    runs = run.store_folder.parents[1]
    with (
        _in_first_stage(),
        open_run(pipeline, info, runs, folder, run.reporter, run.together, retrain=run.retrain) as one,
    ):
        planned = prepare(one, known=True)
        one, plan = replace(one, split=planned.split), planned.plan
        graph = plan_network(one.pipeline, plan.image, len(plan.classes))
        with filled_store(one, planned) as store:
            train(one, planned, graph, store, Trackers(one, 0))
            if run.pipeline.cascade and run.pipeline.cascade.shown:
                predict_held_out(one)
            choice = choice or Choice(plan.spacing_mm)
            if second.plan.focus is None:
                network = load_trained(
                    [folder / WEIGHTS],
                    device=pipeline.train.device,
                    settings=pipeline.infer,
                    own=pipeline.model,
                )
                preprocessor = _preprocessor(run, second)
                with run.reporter.track("looking where labels lie", len(one.split.validation)) as advance:
                    for done, name in enumerate(one.split.validation, 1):
                        found = network.presence(store.read_case(name)[0])
                        geometry = preprocessor.look(run.cases[name]).geometry
                        choice.add(found, _labels(run, second, run.cases[name], preprocessor), geometry)
                        advance(done, name)
    return choice


@contextmanager
def _in_first_stage() -> Iterator[None]:
    """Problems inside are those of the first stage's sections."""
    try:
        yield
    except PipelineError as error:
        own = [replace(problem, path=(STAGES, 0, *problem.path)) for problem in error.problems]
        raise PipelineError(own) from error


def _preprocessor(run: Run, planned: Planned) -> Preprocessor:
    from medfuse.data.prepare import Preprocessor

    return Preprocessor(planned.plan, run.pipeline.preprocess.tolerance_mm)


def _labels(
    run: Run, planned: Planned, case: Case, preprocessor: Preprocessor
) -> npt.NDArray[np.integer[Any]]:
    """The label map (x, y, z) in RAS+ at its own size, 0 where nobody annotated."""
    from medfuse.data.images import read_case_labels

    plan = planned.plan
    geometry = preprocessor.look(case).geometry
    ignored = () if plan.ignore is None else (plan.ignore,)
    labels = read_case_labels(
        case, geometry, (*plan.values, *ignored), tolerance_mm=run.pipeline.preprocess.tolerance_mm
    )
    if ignored:
        labels = np.where(labels == plan.ignore, 0, labels)
    return geometry.turn.apply(labels)


def _told(run: Run, planned: Planned, choice: Choice, together: Trained, files: Sequence[Path]) -> Planned:
    """What the second stage is planned by once the first is trained. Raises DataError where that finds
    nothing."""
    cascade = run.pipeline.cascade
    assert cascade is not None
    plan, weights = planned.plan, tuple(map(file_hash, files))
    if plan.focus is None:
        if choice.nothing == choice.cases:
            raise DataError(
                f"{run.folder / BEFORE}: the first stage finds nothing in any of the {choice.cases} cases "
                "that it was not trained on, so it points nowhere; train it longer (stages.0.train), or look "
                "at its learning rate"
            )
        plan = replace(plan, focus=replace(choice.best(cascade.may_lose), weights=weights))
    shown = _shown(run, together) if plan.before else {}
    hashes = {**planned.hashes, **{str(path): file_hash(path) for path in shown.values()}}
    data = planned.data.model_copy(update={"before": weights})
    return replace(planned, plan=plan, hashes=hashes, data=data, shown=shown)


def _shown(run: Run, together: Trained) -> dict[str, Path]:
    """Case → the label map by networks that did not learn from it, as files; made where they are not yet."""
    from medfuse.infer.cases import output_name

    folder = run.folder / BEFORE
    others = [run.cases[name] for name in run.split.validation] + [*run.unlabelled()]
    if others:
        outcome = together.infer(others, folder / "predictions", run.reporter)
        left = {name: f"{reason}; move it away" for name, reason in outcome.left.items()}
        if faults := {**outcome.failed, **left}:
            raise DataError(*(f"{name}: {reason}" for name, reason in faults.items()))
    places = {case.name: folder / "predictions" for case in others}
    for number, split in enumerate(_folds(run)):
        places |= dict.fromkeys(split.validation, folder / _name(number) / "predictions")
    return {name: place / output_name(run.cases[name]) for name, place in places.items()}


def _lines(run: Run, planned: Planned, together: Trained) -> Iterator[str]:
    """How the second stage looks, what that loses on cases that chose it, and on those that did not."""
    focus = planned.plan.focus
    assert focus is not None
    yield _chosen_line(focus, run.pipeline.cascade.may_lose if run.pipeline.cascade else 0)
    if run.split.validation:
        yield _held_out_line(run, planned, together, focus)


def _chosen_line(focus: Focus, may_lose: float) -> str:
    return (
        f"cascade: the second stage looks within {focus.margin_mm:g} mm of where the first finds anything "
        f"with a probability of {focus.threshold:g}: {focus.looked_at:.1%} of the volume. Of the label that "
        f"loses most {focus.lost:.3%} lies elsewhere, and {may_lose:.3%} may (n = {focus.cases} training "
        "cases, each held out of the first stage)"
    )


def _held_out_line(run: Run, planned: Planned, together: Trained, focus: Focus) -> str:
    """The same on cases that neither stage learned from and that chose nothing."""
    from medfuse.data.plan import resampled_shape
    from medfuse.infer.windows import plan_grid, windows_in

    plan, how = planned.plan, run.pipeline.infer
    preprocessor = _preprocessor(run, planned)
    windows = looked_at = nothing = 0
    lost: dict[int, list[float]] = {}
    names = run.split.validation
    cases = f"{len(names)} held-out case{'s' * (len(names) != 1)}"
    with run.reporter.track("looking at held-out cases", len(names)) as advance:
        for done, name in enumerate(names, 1):
            case = run.cases[name]
            earlier = together.prepare(case)
            geometry = earlier.geometry
            shape = resampled_shape(geometry.ras_shape, geometry.ras_spacing_mm, plan.spacing_mm)
            region = focus.region(together.presence(earlier.image), geometry, shape)
            nothing += region is None
            grid = plan_grid(shape, plan.patch_size, how.windows_overlap, stepped=how.stepped)
            windows += len(grid)
            looked_at += len(grid) if region is None else windows_in(grid, region)
            for value, share in lost_of(region, _labels(run, planned, case, preprocessor)).items():
                lost.setdefault(value, []).append(share)
            advance(done, name)
    most = max((sum(shares) / len(shares) for shares in lost.values()), default=0.0)
    empty = f"; it finds nothing in {nothing}, which are looked at whole" if nothing else ""
    return (
        f"cascade: on {cases} {looked_at / windows:.1%} of the windows are run, and "
        f"of the label that loses most {most:.3%} lies elsewhere{empty}"
    )
