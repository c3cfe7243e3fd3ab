"""`medfuse run`: the stages prepare → train → evaluate → infer → report, where the rooms meet."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.api import Case, DatasetInfo, Split
from medfuse.core.document import Document
from medfuse.core.errors import CheckpointError, DataError, PipelineError
from medfuse.core.files import file_hash, make_folder, write_json, write_text
from medfuse.core.reporter import Reporter
from medfuse.core.text import number, yaml_text
from medfuse.model.graph import GraphPlan
from medfuse.pipeline import Pipeline, load_pipeline, plan_network
from medfuse.run_folder import (
    kept_precision,
    lock,
    refuse_another_pipeline,
    refuse_cross_validation,
    resolved_values,
)
from medfuse.trained import load_trained, weights_facts, weights_file
from medfuse.verbs.check import parameter_problems, pseudo_problems, report_problems
from medfuse.verbs.postprocess import (
    THRESHOLDS,
    choose,
    component_scores,
    dice,
    postprocess_problems,
    said,
    write_choice,
)

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric
    from torch import Tensor, nn

    from medfuse.core.device import Precision
    from medfuse.data.plan import DataPlan
    from medfuse.data.store import Store
    from medfuse.model.segmenter import Segmenter
    from medfuse.report.evaluate import Evaluation, Pair
    from medfuse.report.feature_maps import Picture
    from medfuse.train.objective import Objective
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


@dataclass(frozen=True)
class Begun:
    """What a training consists of before its first step."""

    model: Segmenter
    fabric: Fabric
    objective: Objective
    batches: Callable[..., Generator[Mapping[str, Any], None, None]]


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
        self.train(plan, graph, store)
        if not self.together.is_first:
            raise SystemExit(0)  # this process was there for training
        self.infer()
        evaluation = self.evaluate()
        chosen = self.choose_postprocess(plan, store)
        noted = replace(evaluation, notes=(*evaluation.notes, *chosen))
        write_summary(self.folder / "summary.json", noted)
        self.report(graph, noted, self.pictures(plan, graph, evaluation))
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

    def begin(self, plan: DataPlan, graph: GraphPlan, store: Store) -> Begun:
        """The network, its objective and its batches, on the device and in the precision of training."""
        from medfuse.core.device import channels_last, lay_out, pick_device, settle
        from medfuse.data.loader import training_batches
        from medfuse.model.segmenter import build_segmenter
        from medfuse.train.objective import ActivationTerm, Objective
        from medfuse.train.state import seed_chance
        from medfuse.train.targets import supervised
        from medfuse.train.together import make_fabric

        settings, aux = self.pipeline.train, self.pipeline.model.aux
        device = pick_device(settings.device)
        settle(device, deterministic=settings.deterministic)
        seed_chance(self.pipeline.seed)
        model = build_segmenter(graph)
        if self.is_fresh() and self.together.is_first:
            self.transfer(model)  # the others take over its weights
        model.to(device)
        lay_out(model, len(plan.patch_size) + 2, channels_last(len(plan.patch_size) + 2))

        def batches(start: int, *, labelled: bool = True) -> Generator[Mapping[str, Any], None, None]:
            return training_batches(
                store,
                self.split.train if labelled else [case.name for case in self.unlabelled()],
                plan,
                self.pipeline.sample,
                self.pipeline.augment,
                seed=self.pipeline.seed,
                start_step=start,
                rank=self.together.rank,
                processes=self.together.size,
                unlabelled=not labelled,
            )

        precision = self.together.first(lambda: self.precision(model, plan, device))
        self.reporter.say(f"training on {device.type} in {precision.kind}: {precision.reason}")
        fabric = make_fabric(device, "bf16-mixed" if precision.kind == "bf16" else "32-true")
        targets = partial(supervised, classes=len(plan.classes), regions=plan.regions, ignored=plan.ignored)
        objective = Objective(
            targets(self.pipeline.loss),
            graph.aux,
            aux.schedule if aux else None,
            targets(aux.loss) if aux and aux.loss else None,
            aux.schedule.balance(len(graph.aux)) if aux else None,
            tuple(
                ActivationTerm(a.name, tuple(m.name for m in a.maps), a.loss.weight, a.loss.build(a.maps))
                for a in graph.activations
            ),
        )

        return Begun(model, fabric, objective, batches)

    def train(self, plan: DataPlan, graph: GraphPlan, store: Store) -> None:
        """Weights from batches; the rooms meet in the closures that are handed to `fit`."""
        from medfuse.model.weights import save_weights
        from medfuse.train.guided import Guided
        from medfuse.train.loop import fit, is_finished
        from medfuse.train.pseudo import PseudoLabels

        settings = self.pipeline.train
        if is_finished(self.folder, settings) and self.has_weights():
            self.reporter.say("trained already")
            return
        begun = self.begin(plan, graph, store)
        fabric, pseudo, guided = begun.fabric, settings.pseudo_labels, settings.guided

        def save(kind: str, network: nn.Module, facts: Mapping[str, float]) -> None:
            path = self.folder / f"weights_{kind}.safetensors"
            save_weights(path, network, {**weights_facts(self.pipeline, plan), "trained": dict(facts)})

        done = fit(
            begun.model,
            fabric=fabric,
            settings=settings,
            objective=begun.objective,
            batches=begun.batches,
            validate=lambda network: self.validate(network, plan, store, fabric.device, fabric.autocast),
            save=save,
            folder=self.folder,
            reporter=self.reporter,
            seed=self.pipeline.seed,
            guided=Guided(guided, plan.image.spacing_mm, self.pipeline.seed, self.together.rank)
            if guided
            else None,
            pseudo=PseudoLabels(pseudo, partial(begun.batches, labelled=False), self.teacher(plan))
            if pseudo
            else None,
        )
        self.reporter.say(f"trained {done.step} steps in {done.seconds / 60:.1f} minutes")

    def is_fresh(self) -> bool:
        """Whether nothing has been trained here yet."""
        from medfuse.train.state import has_state

        return not has_state(self.folder)

    def has_weights(self) -> bool:
        """Whether the last weights are there and whole; if not, the training state still has them."""
        from medfuse.model.weights import load_weights

        path = self.folder / "weights_last.safetensors"
        try:
            load_weights(path)
        except CheckpointError:
            self.reporter.say(f"{path}: is missing or damaged; written anew from the training state")
            return False
        return True

    def precision(self, model: nn.Module, plan: DataPlan, device: torch.device) -> Precision:
        """What training computes in: as asked for, or what a probe chose when this run began."""
        import torch

        from medfuse.core.device import choose_precision

        settings = self.pipeline.train

        def choose() -> Precision:
            # two patches, as torch takes another and slower path for one (slow_conv3d)
            example = torch.randn(2, plan.image.channels, *plan.patch_size, device=device)
            return choose_precision(
                settings.precision, model, example, backward=True, deterministic=settings.deterministic
            )

        if settings.precision != "auto" or settings.deterministic:
            return choose()
        return kept_precision(self.folder, device.type, choose)

    def transfer(self, model: Segmenter) -> None:
        """Give backbones the weights that they start from; say and write down what became of each tensor."""
        from medfuse.model.transfer import transfer

        made = transfer(model, self.pipeline.model.transfer)
        for name, taken in made.items():
            self.reporter.say(f"  {name}: {taken.summary()}")
        if made:
            table = self.folder / "transfer.json"
            write_json(table, {name: taken.to_json() for name, taken in made.items()})
            self.reporter.say(f"  {table} lists them all")

    def unlabelled(self) -> tuple[Case, ...]:
        """The cases that pseudo-labels are made for."""
        from medfuse.train.pseudo import unlabelled_cases

        settings = self.pipeline.train.pseudo_labels
        return unlabelled_cases(self.info, settings) if settings else ()

    def teacher(self, plan: DataPlan) -> Segmenter | None:
        """The network of another run that makes pseudo-labels; None where this one teaches itself.

        Raises CheckpointError where it would see these images otherwise than its own.
        """
        settings = self.pipeline.train.pseudo_labels
        if settings is None or settings.teacher == "self":
            return None
        path = weights_file(settings.teacher, best=False)
        trained = load_trained([path], device=self.pipeline.train.device)
        differing = [
            what
            for what in ("labels", "region_order", "channels", "spacing_mm", "normalization")
            if getattr(trained.plan, what) != getattr(plan, what)
        ]
        if trained.plan.image.dims != plan.image.dims:
            differing.append("number of axes")
        if differing:
            raise CheckpointError(
                f"{path}: not a teacher of this run, as it was trained with other {', '.join(differing)}; "
                "train it on this dataset with the same `preprocess`"
            )
        return trained.segmenter()

    def validate(
        self,
        network: nn.Module,
        plan: DataPlan,
        store: Store,
        device: torch.device,
        autocast: Callable[[], Any],
    ) -> dict[str, float]:
        """Dice of some held-out cases on the network's grid: a quick look, not the evaluation."""
        from medfuse.infer.sliding import predict_logits
        from medfuse.report.metrics import dice_per_class, dice_per_region

        def windows(batch: Tensor) -> Tensor:
            with autocast():
                return network(batch).float()

        found: dict[str, list[float]] = {}
        names = self.split.validation[: self.pipeline.train.validation_cases]
        for name in names[self.together.rank :: self.together.size]:
            image, label = store.read_case(name)
            logits = predict_logits(
                image,
                windows,
                patch_size=plan.patch_size,
                classes=len(plan.classes),
                overlap=self.pipeline.infer.overlap,
                batch_size=self.pipeline.infer.batch_size,
                device=device,
            )
            if plan.regions:
                regions = dict(zip(plan.classes, plan.regions))
                scores = dice_per_region((logits > 0).cpu().numpy(), label, regions, plan.ignored)
            else:
                scores = dice_per_class(logits.argmax(0).cpu().numpy(), label, plan.classes)
            for label_name, value in scores.items():
                found.setdefault(label_name, []).append(value)
        shares = self.together.collect(found)
        labels = dict.fromkeys(name for share in shares for name in share)
        found = {name: [value for share in shares for value in share.get(name, [])] for name in labels}
        means = {name: sum(values) / len(values) for name, values in found.items()}
        if not means:
            return {}
        return {"dice": sum(means.values()) / len(means), **{f"dice/{name}": m for name, m in means.items()}}

    def infer(self) -> None:
        """Label maps of the held-out cases, from their own files, by the way that new scans go."""
        cases = [self.cases[name] for name in self.split.validation]
        model = load_trained(
            [self.folder / "weights_last.safetensors"],
            device=self.pipeline.train.device,
            settings=self.pipeline.infer,
        )
        outcome = model.infer(cases, self.folder / "predictions", self.reporter)
        if outcome.failed:
            raise DataError(*(f"{name}: {reason}" for name, reason in outcome.failed.items()))

    def evaluate(self) -> Evaluation:
        """Metrics of the held-out cases on the grids of their own files."""
        from medfuse.report.evaluate import evaluate_pairs

        return evaluate_pairs(
            self.pairs(),
            self.info.labels,
            ignore=self.info.ignore,
            tolerance_mm=self.pipeline.preprocess.tolerance_mm,
            reporter=self.reporter,
        )

    def pairs(self) -> list[Pair]:
        """The held-out cases' predicted and true label maps."""
        from medfuse.infer.cases import output_name
        from medfuse.report.evaluate import Pair

        found = []
        for name in self.split.validation:
            case = self.cases[name]
            assert case.label is not None, "a split has labelled cases only"
            found.append(Pair(name, self.folder / "predictions" / output_name(case), case.label))
        return found

    def choose_postprocess(self, plan: DataPlan, store: Store) -> tuple[str, ...]:
        """Where it is left to the held-out cases: what they chose, which is written down too."""
        if self.pipeline.infer.postprocess != "auto":
            return ()
        components = component_scores(
            self.pairs(), plan.labels, plan.region_order, plan.ignore, self.reporter
        )
        chosen = choose(components, self.threshold_scores(plan, store) if plan.regions else {})
        write_choice(self.folder, chosen)
        return tuple(said(chosen))

    def threshold_scores(self, plan: DataPlan, store: Store) -> dict[str, dict[str, dict[str, float]]]:
        """Case → region → threshold → Dice, on the network's grid."""
        import numpy as np

        from medfuse.infer.sliding import predict_logits

        trained = load_trained(
            [self.folder / "weights_last.safetensors"],
            device=self.pipeline.train.device,
            settings=self.pipeline.infer,
        )
        scores = {}
        with self.reporter.track("trying thresholds", len(self.split.validation)) as advance:
            for done, name in enumerate(self.split.validation, 1):
                image, label = store.read_case(name)
                probability = predict_logits(
                    image,
                    trained.networks[0],
                    patch_size=plan.patch_size,
                    classes=len(plan.classes),
                    overlap=self.pipeline.infer.overlap,
                    batch_size=self.pipeline.infer.batch_size,
                    device=trained.device,
                ).sigmoid()
                known = label != plan.ignored
                scores[name] = {
                    region: {
                        f"threshold {t}": dice((found > t).cpu().numpy() & known, np.isin(label, numbers))
                        for t in THRESHOLDS
                    }
                    for region, found, numbers in zip(plan.classes, probability, plan.regions)
                }
                advance(done, name)
        return scores

    def pictures(self, plan: DataPlan, graph: GraphPlan, evaluation: Evaluation) -> dict[str, list[Picture]]:
        """What the pipeline's `report` asks to see of the network, for the cases that the report shows."""
        from medfuse.data.prepare import Preprocessor
        from medfuse.inside import CaseInside, Output, draw_inside
        from medfuse.model.selection import select
        from medfuse.report.html import chosen_cases

        settings = self.pipeline.report
        maps, gradcam = select(graph, settings.maps), select(graph, settings.gradcam)
        if not maps and not gradcam:
            return {}
        path = self.folder / "weights_last.safetensors"
        network = load_trained([path], device=self.pipeline.train.device).segmenter()
        preprocessor = Preprocessor(plan, self.pipeline.preprocess.tolerance_mm)
        chosen = [judged for _, judged in chosen_cases(evaluation.cases)]
        numbers = plan.regions or tuple((number,) for number in range(len(plan.classes)))
        outputs = [Output(n, i, numbers[i]) for i, n in enumerate(plan.classes) if numbers[i] != (0,)]
        made = {}
        with self.reporter.track("drawing what is inside the network", len(chosen)) as advance:
            for done, judged in enumerate(chosen, 1):
                case = replace(self.cases[judged.name], label=judged.pair.prediction)
                prepared = preprocessor.prepare(case)
                inside = CaseInside(prepared.image, preprocessor.prepare_label(case, prepared))
                made[case.name] = draw_inside(
                    network, inside, plan.image, maps=maps, gradcam=gradcam, labels=outputs
                )
                advance(done, case.name)
        return made

    def report(
        self, graph: GraphPlan, evaluation: Evaluation, pictures: Mapping[str, Sequence[Picture]]
    ) -> None:
        from medfuse.report.html import ReportContent, write_report
        from medfuse.train.log import read_rows

        locked = json.loads((self.folder / "lock.json").read_text(encoding="utf-8"))
        repeat = {
            key: yaml_text(value).strip() if isinstance(value, dict | list) else str(value)
            for key, value in locked.items()
            if key != "data"
        }
        repeat["data (SHA-256)"] = "\n".join(f"{digest}  {file}" for file, digest in locked["data"].items())
        content = ReportContent(
            name=self.pipeline.name,
            date=locked["started"],
            evaluation=evaluation,
            graph=graph_nodes(graph),
            rows=read_rows(self.folder / "metrics.jsonl"),
            images={name: self.cases[name].images[0] for name in self.split.validation},
            pictures=pictures,
            ct=self.info.channels[0].strip().lower() == "ct",
            tolerance_mm=self.pipeline.preprocess.tolerance_mm,
            pipeline=(self.folder / "resolved.yaml").read_text(encoding="utf-8"),
            repeat=repeat,
        )
        with self.reporter.track("writing the report", 1) as advance:
            write_report(self.folder / "report.html", content)
            advance(1, "")


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


def graph_nodes(graph: GraphPlan) -> list[Any]:
    """The graph in the report's own terms."""
    from medfuse.report.graph import GraphNode

    return [GraphNode(v.name, v.kind, v.text, v.inputs) for v in graph.views()]


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
