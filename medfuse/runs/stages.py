"""The stages of a run, prepare → train → evaluate → infer → report, where the rooms meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medfuse.core.errors import CheckpointError, PipelineError
from medfuse.core.files import write_json
from medfuse.pipeline import plan_network
from medfuse.runs.beginning import Planned
from medfuse.runs.doubts import doubts, network_doubts
from medfuse.runs.final import unjudged
from medfuse.runs.frozen_set import frozen_note
from medfuse.runs.judging import (
    choose_postprocess,
    draw_pictures,
    evaluate,
    judged_otherwise,
    predict_held_out,
    write_run_report,
)
from medfuse.runs.overlap import choose_overlap
from medfuse.runs.problems import objective_problems, placed_split, setting_problems
from medfuse.runs.records import FINGERPRINT, LOCK, PLAN, Lock, read_plan, read_record
from medfuse.runs.run import Run, trained_on
from medfuse.runs.teacher import recorded_teacher, shown_alike, taught_note, with_its_numbers
from medfuse.runs.teacher_check import seen_problems, teacher_problems
from medfuse.runs.tracking import tracked
from medfuse.runs.training import train
from medfuse.runs.two_stages import shown_values
from medfuse.runs.weights import advice, origins, scaling_problems

if TYPE_CHECKING:
    from medfuse.data.fingerprint import Fingerprint
    from medfuse.data.plan import DataPlan
    from medfuse.data.store import Store
    from medfuse.model.verify import Verified
    from medfuse.report.evaluate import Evaluation


@dataclass(frozen=True)
class Judged:
    """What the last stage knows: held-out cases judged, and the postprocessing that was chosen.

    Of the final model no case is judged, and the notes say so.
    """

    evaluation: Evaluation
    postprocess: tuple[str, ...]


def do_stages(
    run: Run,
    seen: Fingerprint | None = None,
    *,
    planned: Planned | None = None,
    notes: Sequence[str] = (),
) -> Judged:
    """Every stage, each of which carries on where an earlier process stopped.

    `seen`: see `prepare`. `planned`: what is known already. `notes`: what is said, and in its summary, too.
    """
    from medfuse.report.summary import write_summary

    for line in notes:
        run.reporter.say(line)
    planned = planned or run.together.first(lambda: prepare(run, seen))
    run, plan = replace(run, split=planned.split), planned.plan
    graph = plan_network(run.pipeline, plan.image, len(plan.classes))
    with filled_store(run, planned) as store, tracked(run, planned.standing.step) as trackers:
        train(run, planned, graph, store, trackers)
        if not run.together.is_first:
            raise SystemExit(0)  # this process was there for training
        told = (*notes, *_outlook(run), *frozen_note(run.folder), *taught_note(run.folder))
        if run.split.validation:
            predict_held_out(run)
            evaluation = evaluate(run)
            chosen = (*choose_postprocess(run, plan, store), *choose_overlap(run))
            otherwise = judged_otherwise(run)
        else:
            (evaluation, chosen), otherwise = unjudged(run), ()
        noted = replace(
            evaluation,
            notes=(*evaluation.notes, *otherwise, *told, *chosen),
            teacher=recorded_teacher(run.folder),
        )
        summary = write_summary(run.folder / "summary.json", noted)
        write_run_report(run, graph, noted, draw_pictures(run, plan, graph, evaluation))
        trackers.finish(summary)
    return Judged(evaluation, chosen)


def _outlook(run: Run) -> tuple[str, ...]:
    """What more training would bring, which is said too; nothing where its log is lost."""
    from medfuse.train.log import read_rows
    from medfuse.train.outlook import outlook

    rows = read_rows(run.folder / "metrics.jsonl")
    told = (outlook(rows, run.pipeline.train),) if rows else ()
    for line in told:
        run.reporter.say(line)
    return told


def prepare(
    run: Run, seen: Fingerprint | None = None, *, known: bool = False, verified: Verified | None = None
) -> Planned:
    """Check every case, plan every `auto` value, verify the graph. Nothing is written yet.

    `seen` is what was found of the same files before, and saves reading them. `known`: whether what is odd
    about the data has been said already. `verified` knows graphs that were seen before.

    A run that has weights keeps its plan and its split. Raises MedfuseError where it has other data.
    The split of a fresh one is another where it is stratified by what only the label maps tell.
    """
    from medfuse.data.fingerprint import hash_files, take_fingerprint
    from medfuse.model.verify import verify
    from medfuse.train.budget import Budget
    from medfuse.train.state import Spent, how_far

    labelled = [case for case in run.info.cases if case.label]
    fingerprint = seen
    if fingerprint is None:
        with run.reporter.track(f"checking {len(labelled)} cases", len(labelled)) as advance:
            fingerprint = take_fingerprint(
                labelled,
                run.info,
                tolerance_mm=run.pipeline.preprocess.tolerance_mm,
                pixel_mm=run.pipeline.preprocess.pixel_mm,
                progress=lambda done, _: advance(done, ""),
            )
    hashes = {file: digest for case in fingerprint.cases for file, digest in case.files.items()}
    hashes |= hash_files(run.unlabelled())
    run.refuse_other_data(hashes)
    if run.kept is None and run.pipeline.split.stratify:  # by what only the label maps tell
        run = replace(run, split=placed_split(run.pipeline, run.info, fingerprint.cases))
    plan = _plan(run, fingerprint, hashes)
    for what, reason in plan.reasons.items():
        run.reporter.say(f"  {what}: {_said(plan, what)}: {reason}")
    graph = plan_network(run.pipeline, plan.image, len(plan.classes))
    facts = (verified or verify)(graph)
    problems = setting_problems(run.pipeline, graph, facts, run.info, fresh=run.starts)
    if run.starts:
        alike = shown_alike(run.pipeline)
        problems += scaling_problems(alike, origins(run.pipeline), run.info.channels)
    standing = Spent(0, 0.0) if run.starts else how_far(run.folder)
    data = trained_on(run.pipeline, run.info, run.split, hashes)
    if not Budget.of(run.pipeline.train).is_spent(standing.step, standing.seconds):
        problems += objective_problems(run.pipeline, graph, facts, run.info, all_losses=True)
        problems += teacher_problems(run.pipeline, graph, run.info)
        problems += seen_problems(run.pipeline, run.info, plan, data)
    if problems:
        raise PipelineError(problems)
    run.reporter.say(f"  network: {facts.parameters:,} parameters")
    odd = [] if known else doubts(run, fingerprint, plan, data)
    for line in (*odd, *network_doubts(run.pipeline, graph)):
        run.reporter.say_once(line)
    return Planned(run.split, plan, fingerprint, hashes, data, standing)


def _plan(run: Run, fingerprint: Fingerprint, hashes: Mapping[str, str]) -> DataPlan:
    """The plan that the weights were made by, where there are any; one that was lost is made anew."""
    from medfuse.data.plan import make_plan

    if not run.starts:
        before = read_record(Lock, run.folder / LOCK)
        if not hashes.keys() <= before.data.keys():
            run.reporter.say("  the data lie elsewhere than they did, and are the same")
        try:
            return read_plan(run.folder)
        except CheckpointError as error:
            run.reporter.say(f"{error.lines[0]} (written anew, as the data are the same)")
    asked = advice(run.pipeline, origins(run.pipeline), run.info.channels)
    preprocess = shown_alike(run.pipeline).preprocess
    plan = make_plan(fingerprint, run.info, preprocess, run.pipeline.sample, asked)
    plan = with_its_numbers(plan, run.pipeline)
    plan = replace(plan, before=shown_values(run.pipeline, run.info))
    if not run.starts:
        graph = plan_network(run.pipeline, plan.image, len(plan.classes))
        write_json(run.folder / PLAN, {"data": plan.to_json(), "graph": graph.rows()})
        write_json(run.folder / FINGERPRINT, fingerprint.to_json())
    return plan


@contextmanager
def filled_store(run: Run, planned: Planned) -> Iterator[Store]:
    """Every case of the split, and what is learned from without label, preprocessed, until the block ends.

    What is there already is used again.
    """
    from medfuse.data.prepare import Preprocessor
    from medfuse.data.store import Store

    def fill() -> Store:
        store = Store(run.store_folder)
        alone = held.enter_context(store.in_use())
        cases = [run.cases[name] for name in (*run.split.train, *run.split.validation)]
        cases += run.unlabelled()
        preprocessor = Preprocessor(planned.plan, run.pipeline.preprocess.tolerance_mm, planned.shown)
        with run.reporter.track(f"preparing {len(cases)} cases", len(cases)) as advance:
            store.build(
                cases,
                preprocessor,
                planned.hashes,
                alone=alone,
                progress=lambda done, _: advance(done, ""),
            )
        return store

    with ExitStack() as held:
        yield run.together.first(fill)


def _said(plan: DataPlan, what: str) -> str:
    if what.startswith("normalize."):
        channel = plan.channels.index(what.partition(".")[2])
        return plan.normalization[channel].kind
    value = getattr(plan, what)
    return " × ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)
