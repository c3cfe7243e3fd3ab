"""`medfuse run`: the stages prepare → train → evaluate → infer → report, where the rooms meet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.api import Case, DatasetInfo, Split
from medfuse.core.document import Document
from medfuse.core.errors import DataError, PipelineError
from medfuse.core.files import file_hash, make_folder, write_json, write_text
from medfuse.core.reporter import Reporter
from medfuse.core.text import number, yaml_text
from medfuse.pipeline import Pipeline, load_pipeline, plan_network
from medfuse.run_folder import (
    lock,
    refuse_another_pipeline,
    refuse_cross_validation,
    resolved_values,
)
from medfuse.verbs.check import parameter_problems, pseudo_problems, report_problems
from medfuse.verbs.postprocess import postprocess_problems
from medfuse.verbs.run_judging import (
    choose_postprocess,
    draw_pictures,
    evaluate,
    predict_held_out,
    write_run_report,
)
from medfuse.verbs.run_training import train

if TYPE_CHECKING:
    from medfuse.data.plan import DataPlan
    from medfuse.data.store import Store
    from medfuse.report.evaluate import Evaluation
    from medfuse.train.together import Together


@dataclass(frozen=True)
class RunResult:
    """What a finished run has to say."""

    folder: Path
    evaluation: Evaluation
    postprocess: tuple[str, ...] = ()

    def text(self) -> str:
        """The last lines: Dice per label on the held-out cases, and where everything is."""
        from medfuse.report.summary import summarise

        summary = summarise(self.evaluation)
        lines = [f"held-out cases: {len(self.evaluation.cases)}"]
        for name, value in self.evaluation.labels.items():
            dice, n = summary["mean"][str(value)]["Dice"], summary["n"][str(value)]["Dice"]
            lines.append(f"  Dice {name}: {number(dice)} (n = {n})")
        lines.append(f"  mean foreground Dice: {number(summary['foreground_mean']['Dice'])}")
        lines += [
            *self.postprocess,
            f"report:      {self.folder / 'report.html'}",
            f"weights:     {self.folder / 'weights_last.safetensors'}",
            f"predictions: {self.folder / 'predictions'}",
            f"new scans:   medfuse infer {self.folder} --input FOLDER --output FOLDER",
        ]
        return "\n".join(lines)


def run_pipeline(
    file: Path,
    overrides: Iterable[str] = (),
    *,
    runs: Path = Path("runs"),
    folder: Path | None = None,
    reporter: Reporter,
) -> RunResult:
    """Every stage of a pipeline file, each of which carries on where an earlier run of it stopped.

    `folder` is the run's folder, `runs`/NAME where it is not given.
    """
    pipeline, document = load_pipeline(file, overrides)
    with located(document):
        info = read_dataset(pipeline)
        with _together(pipeline) as together:
            where = folder or runs / pipeline.name
            return Run(pipeline, document, info, runs, reporter, together, where).stages()


class Run:
    """One run folder, and the stages that fill it."""

    def __init__(
        self,
        pipeline: Pipeline,
        document: Document,
        info: DatasetInfo,
        runs: Path,
        reporter: Reporter,
        together: Together,
        folder: Path,
    ) -> None:
        import torch

        from medfuse.data.split import choose_split

        self.pipeline, self.info, self.together = pipeline, info, together
        self.reporter = reporter if together.is_first else Reporter(quiet=True)
        self.split: Split = choose_split(info, pipeline.split)
        self.cases = {case.name: case for case in info.cases}
        self.store_folder = runs / "prepared" / info_name(pipeline)
        self.folder = folder
        together.first(self.claim)
        torch.set_flush_denormal(True)  # now, as threads that torch starts take it over and others do not

    def claim(self) -> None:
        refuse_cross_validation(self.folder)
        refuse_another_pipeline(self.folder, self.pipeline)
        make_folder(self.folder)

    def stages(self) -> RunResult:
        from medfuse.report.summary import write_summary

        plan = self.together.first(self.prepare)
        graph = plan_network(self.pipeline, plan.image, len(plan.classes))
        store = self.together.first(lambda: self.fill_store(plan))
        train(self, plan, graph, store)
        if not self.together.is_first:
            raise SystemExit(0)  # this process was there for training
        predict_held_out(self)
        evaluation = evaluate(self)
        chosen = choose_postprocess(self, plan, store)
        noted = replace(evaluation, notes=(*evaluation.notes, *chosen))
        write_summary(self.folder / "summary.json", noted)
        write_run_report(self, graph, noted, draw_pictures(self, plan, graph, evaluation))
        return RunResult(self.folder, evaluation, chosen)

    def prepare(self) -> DataPlan:
        """Check every case, plan every `auto` value, verify the graph; write down all of it."""
        from medfuse.data.fingerprint import take_fingerprint
        from medfuse.data.plan import make_plan
        from medfuse.data.split import choose_split
        from medfuse.model.verify import verify

        labelled = [case for case in self.info.cases if case.label]
        with self.reporter.track(f"checking {len(labelled)} cases", len(labelled)) as advance:
            fingerprint = take_fingerprint(
                labelled,
                self.info,
                tolerance_mm=self.pipeline.preprocess.tolerance_mm,
                progress=lambda done, _: advance(done, ""),
            )
        if self.pipeline.split.stratify:  # by what only the label maps tell
            self.split = choose_split(self.info, self.pipeline.split, fingerprint.cases)
        plan = make_plan(fingerprint, self.info, self.pipeline.preprocess, self.pipeline.sample)
        for what, reason in plan.reasons.items():
            self.reporter.say(f"  {what}: {_planned(plan, what)}: {reason}")
        graph = plan_network(self.pipeline, plan.image, len(plan.classes))
        facts = verify(graph)
        problems = parameter_problems(self.pipeline, facts, fresh=self.is_fresh())
        problems += postprocess_problems(self.pipeline.infer.postprocess, self.info)
        problems += pseudo_problems(self.pipeline, graph, self.info) + report_problems(self.pipeline, graph)
        if problems:
            raise PipelineError(problems)
        self.reporter.say(f"  network: {facts.parameters:,} parameters")
        write_text(self.folder / "resolved.yaml", yaml_text(resolved_values(self.pipeline, plan)))
        write_json(self.folder / "plan.json", {"data": plan.to_json(), "graph": graph.rows()})
        write_json(self.folder / "fingerprint.json", fingerprint.to_json())
        hashes = {file: digest for case in fingerprint.cases for file, digest in case.files.items()}
        hashes |= {str(file): file_hash(file) for case in self.unlabelled() for file in case.images}
        write_json(self.folder / "lock.json", lock(self.pipeline, hashes))
        return plan

    def fill_store(self, plan: DataPlan) -> Store:
        """Every case of the split, and what is learned from without label, preprocessed.

        What is there already is used again.
        """
        from medfuse.data.prepare import Preprocessor
        from medfuse.data.store import Store

        store = Store(self.store_folder)
        cases = [self.cases[name] for name in (*self.split.train, *self.split.validation)]
        cases += self.unlabelled()
        preprocessor = Preprocessor(plan, self.pipeline.preprocess.tolerance_mm)
        with self.reporter.track(f"preparing {len(cases)} cases", len(cases)) as advance:
            store.build(cases, preprocessor, progress=lambda done, _: advance(done, ""))
        return store

    def is_fresh(self) -> bool:
        """Whether nothing has been trained here yet."""
        from medfuse.train.state import has_state

        return not has_state(self.folder)

    def unlabelled(self) -> tuple[Case, ...]:
        """The cases that pseudo-labels are made for."""
        from medfuse.train.pseudo import unlabelled_cases

        settings = self.pipeline.train.pseudo_labels
        return unlabelled_cases(self.info, settings) if settings else ()


def info_name(pipeline: Pipeline) -> str:
    """A folder name for a dataset's prepared cases: runs on the same dataset share it."""
    import hashlib

    source = f"{pipeline.data.root.resolve()} {pipeline.preprocess.model_dump_json()}"
    return f"{pipeline.data.root.resolve().name}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


def read_dataset(pipeline: Pipeline) -> DatasetInfo:
    info = pipeline.data.read()
    if not any(case.label for case in info.cases):
        raise DataError(f"{pipeline.data.root}: no case has a label; training needs some")
    return info


def _planned(plan: DataPlan, what: str) -> str:
    if what.startswith("normalize."):
        channel = plan.channels.index(what.partition(".")[2])
        return plan.normalization[channel].kind
    value = getattr(plan, what)
    return " × ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


def _together(pipeline: Pipeline) -> AbstractContextManager[Together]:
    """The processes that train this pipeline, which `--devices` or torchrun started; or this one alone."""
    from medfuse.core.device import pick_device
    from medfuse.train.together import joined

    return joined(pick_device(pipeline.train.device))


@contextmanager
def located(document: Document) -> Iterator[None]:
    """Add file, line and column to problems that are found after the file was read."""
    try:
        yield
    except PipelineError as error:
        raise document.located(error) from None
