"""The stages of a run, prepare → train → evaluate → infer → report, where the rooms meet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medfuse.api import Split
from medfuse.core.errors import PipelineError
from medfuse.core.files import file_hash, write_json, write_text
from medfuse.core.text import yaml_text
from medfuse.pipeline import plan_network
from medfuse.runs.doubts import doubts
from medfuse.runs.folder import lock, resolved_values
from medfuse.runs.judging import (
    choose_postprocess,
    draw_pictures,
    evaluate,
    predict_held_out,
    write_run_report,
)
from medfuse.runs.problems import (
    augment_problems,
    objective_problems,
    parameter_problems,
    postprocess_problems,
    pseudo_problems,
    report_problems,
)
from medfuse.runs.run import Run
from medfuse.runs.training import train

if TYPE_CHECKING:
    from medfuse.data.plan import DataPlan
    from medfuse.data.store import Store
    from medfuse.report.evaluate import Evaluation


@dataclass(frozen=True)
class Judged:
    """What the last stage knows: held-out cases judged, and the postprocessing that they chose."""

    evaluation: Evaluation
    postprocess: tuple[str, ...]


def do_stages(run: Run) -> Judged:
    """Every stage, each of which carries on where an earlier process stopped."""
    from medfuse.report.summary import write_summary

    split, plan = run.together.first(lambda: prepare(run))
    run = replace(run, split=split)
    graph = plan_network(run.pipeline, plan.image, len(plan.classes))
    store = run.together.first(lambda: fill_store(run, plan))
    train(run, plan, graph, store)
    if not run.together.is_first:
        raise SystemExit(0)  # this process was there for training
    predict_held_out(run)
    evaluation = evaluate(run)
    chosen = choose_postprocess(run, plan, store)
    noted = replace(evaluation, notes=(*evaluation.notes, *chosen))
    write_summary(run.folder / "summary.json", noted)
    write_run_report(run, graph, noted, draw_pictures(run, plan, graph, evaluation))
    return Judged(evaluation, chosen)


def prepare(run: Run) -> tuple[Split, DataPlan]:
    """Check every case, plan every `auto` value, verify the graph; write down all of it.

    The split is another where it is stratified by what only the label maps tell.
    """
    from medfuse.data.fingerprint import take_fingerprint
    from medfuse.data.plan import make_plan
    from medfuse.data.split import choose_split
    from medfuse.model.verify import verify

    labelled = [case for case in run.info.cases if case.label]
    with run.reporter.track(f"checking {len(labelled)} cases", len(labelled)) as advance:
        fingerprint = take_fingerprint(
            labelled,
            run.info,
            tolerance_mm=run.pipeline.preprocess.tolerance_mm,
            progress=lambda done, _: advance(done, ""),
        )
    if run.pipeline.split.stratify:  # by what only the label maps tell
        run = replace(run, split=choose_split(run.info, run.pipeline.split, fingerprint.cases))
    plan = make_plan(fingerprint, run.info, run.pipeline.preprocess, run.pipeline.sample)
    for what, reason in plan.reasons.items():
        run.reporter.say(f"  {what}: {_planned(plan, what)}: {reason}")
    graph = plan_network(run.pipeline, plan.image, len(plan.classes))
    facts = verify(graph)
    problems = parameter_problems(run.pipeline, facts, fresh=run.is_fresh())
    problems += postprocess_problems(run.pipeline.infer.postprocess, run.info)
    problems += pseudo_problems(run.pipeline, graph, run.info) + report_problems(run.pipeline, graph)
    problems += augment_problems(run.pipeline, plan.image, run.info)
    problems += objective_problems(run.pipeline, graph, facts, run.info, all_losses=True)
    if problems:
        raise PipelineError(problems)
    run.reporter.say(f"  network: {facts.parameters:,} parameters")
    for line in doubts(run, fingerprint, plan):
        run.reporter.say_once(line)
    write_text(run.folder / "resolved.yaml", yaml_text(resolved_values(run.pipeline, plan)))
    write_json(run.folder / "plan.json", {"data": plan.to_json(), "graph": graph.rows()})
    write_json(run.folder / "fingerprint.json", fingerprint.to_json())
    hashes = {file: digest for case in fingerprint.cases for file, digest in case.files.items()}
    hashes |= {str(file): file_hash(file) for case in run.unlabelled() for file in case.images}
    write_json(run.folder / "lock.json", lock(run.pipeline, hashes))
    return run.split, plan


def fill_store(run: Run, plan: DataPlan) -> Store:
    """Every case of the split, and what is learned from without label, preprocessed.

    What is there already is used again.
    """
    from medfuse.data.prepare import Preprocessor
    from medfuse.data.store import Store

    store = Store(run.store_folder)
    cases = [run.cases[name] for name in (*run.split.train, *run.split.validation)]
    cases += run.unlabelled()
    preprocessor = Preprocessor(plan, run.pipeline.preprocess.tolerance_mm)
    with run.reporter.track(f"preparing {len(cases)} cases", len(cases)) as advance:
        store.build(cases, preprocessor, progress=lambda done, _: advance(done, ""))
    return store


def _planned(plan: DataPlan, what: str) -> str:
    if what.startswith("normalize."):
        channel = plan.channels.index(what.partition(".")[2])
        return plan.normalization[channel].kind
    value = getattr(plan, what)
    return " × ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)
