"""The stages, prepare → train → evaluate → infer → report: the only place where the rooms meet."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import medfuse
from medfuse import registry
from medfuse.api import Case, DatasetInfo, ImageInfo, Runtime, Split
from medfuse.core.document import Document
from medfuse.core.errors import CheckpointError, DataError, MedfuseError, PipelineError, Problem
from medfuse.core.files import file_hash, make_folder, write_json, write_text
from medfuse.core.reporter import Advance, Reporter
from medfuse.infer.settings import InferSettings
from medfuse.model.graph import GraphPlan, plan_graph
from medfuse.model.settings import ModelSettings
from medfuse.pipeline import Pipeline, load_pipeline, resolved

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from medfuse.data.plan import DataPlan
    from medfuse.data.store import Store
    from medfuse.infer.folder import Outcome, Progress
    from medfuse.model.segmenter import Segmenter
    from medfuse.model.verify import VerifiedFacts
    from medfuse.report.evaluate import Evaluation
    from medfuse.report.feature_maps import Picture

CHECK_PATCH = 64  # voxels per axis that `check` assumes where patch_size is left to the data

_FREE = (
    "name",
    "infer",
    "report",
    "train",
)  # what a run that is carried on may say differently, but for these:
_FIXED_TRAIN = (
    "optimizer",
    "learning_rate",
    "weight_decay",
    "decay",
    "warmup",
    "average",
    "parts",
    "pseudo_labels",
    "guided",
)


# ---------------------------------------------------------------------------------------------- check


def check_pipeline(file: Path, overrides: Iterable[str] = ()) -> str:
    """Plan the graph of a pipeline, verify it on the meta device; return the table of features.

    Reads the dataset's text files, opens no image. Raises PipelineError with every problem located.
    """
    from medfuse.model.verify import verify

    pipeline, document = load_pipeline(file, overrides)
    problems: list[Problem] = []
    info: DatasetInfo | None = None
    try:
        info = pipeline.data.read()
    except DataError as error:
        problems += [Problem(("data", "root"), line) for line in error.lines]
    image = _nominal_image(pipeline, info)
    try:
        graph = _plan_graph(pipeline, image, len(info.labels) if info else 2)
        problems += _report_problems(pipeline, graph)
        facts = verify(graph) if not problems else None
        problems += _parameter_problems(pipeline, facts, fresh=True) if facts else []
        problems += _pseudo_problems(pipeline, graph, info) if info else []
    except PipelineError as error:
        problems += error.problems
    if problems:
        raise document.located(PipelineError(problems))
    assert info is not None
    assert facts is not None
    assumed = (
        " (assumed: patch_size is planned from the data)" if pipeline.sample.patch_size == "auto" else ""
    )
    data = f"{len(info.cases)} cases, channels {', '.join(info.channels)}, labels {', '.join(info.labels)}"
    lines = [
        f"{file}: {data}",
        f"patch {'×'.join(map(str, image.patch_size))}{assumed}",
        "",
        graph.table(),
        "",
        f"{facts.parameters:,} parameters; every declared shape agrees with the real one",
    ]
    return "\n".join(lines)


def _plan_graph(pipeline: Pipeline, image: ImageInfo, classes: int) -> GraphPlan:
    return plan_graph(pipeline.model, image, classes, _watched(pipeline))


def _watched(pipeline: Pipeline) -> dict[str, tuple[str | int, ...]]:
    """Maps that training looks at, whatever the graph does with them."""
    guided = pipeline.train.guided
    return {guided.map: ("train", "guided", "map")} if guided else {}


def _pseudo_problems(pipeline: Pipeline, graph: GraphPlan, info: DatasetInfo) -> list[Problem]:
    """What `train.pseudo_labels` names and is not there."""
    from medfuse.train.pseudo import head_problems, unlabelled_cases

    settings, path = pipeline.train.pseudo_labels, ("train", "pseudo_labels")
    if settings is None:
        return []
    problems = head_problems(settings.heads, graph.aux)
    try:
        unlabelled_cases(info, settings)
    except DataError as error:
        problems += [Problem((*path, "cases"), line) for line in error.lines]
    try:
        if settings.teacher != "self":
            _weights_file(settings.teacher, best=False)
    except CheckpointError as error:
        problems += [Problem((*path, "teacher"), line) for line in error.lines]
    return problems


def _parameter_problems(pipeline: Pipeline, facts: VerifiedFacts, *, fresh: bool) -> list[Problem]:
    """What settings say of parameters and is not so. Weights to start from matter to a `fresh` run alone."""
    from medfuse.model.transfer import transfer_problems
    from medfuse.train.parts import part_problems

    problems = part_problems(pipeline.train.parts, facts.parameter_shapes)
    return problems + (transfer_problems(pipeline.model, facts.parameter_shapes) if fresh else [])


def _report_problems(pipeline: Pipeline, graph: GraphPlan) -> list[Problem]:
    """What the report is to show of the network and the graph does not have."""
    from medfuse.model.selection import selection_problems

    settings = pipeline.report
    return [
        *selection_problems(graph, settings.maps, ("report", "maps")),
        *selection_problems(graph, settings.gradcam, ("report", "gradcam")),
    ]


def _nominal_image(pipeline: Pipeline, info: DatasetInfo | None) -> ImageInfo:
    """What the network will be given, as far as it is known before any image is opened."""
    patch = pipeline.sample.patch_size
    size = (CHECK_PATCH,) * 3 if patch == "auto" else patch
    spacing = pipeline.preprocess.spacing_mm
    spacing_mm = (1.0,) * 3 if spacing == "auto" else spacing
    return ImageInfo(len(info.channels) if info else 1, size, spacing_mm[: len(size)])


# ------------------------------------------------------------------------------------------------ run


@dataclass(frozen=True)
class RunResult:
    """What a finished run has to say."""

    folder: Path
    evaluation: Evaluation

    def text(self) -> str:
        """The last lines: Dice per label on the held-out cases, and where everything is."""
        from medfuse.report.summary import summarise

        summary = summarise(self.evaluation)
        lines = [f"held-out cases: {len(self.evaluation.cases)}"]
        for name, value in self.evaluation.labels.items():
            dice, n = summary["mean"][str(value)]["Dice"], summary["n"][str(value)]["Dice"]
            lines.append(f"  Dice {name}: {_number(dice)} (n = {n})")
        lines.append(f"  mean foreground Dice: {_number(summary['foreground_mean']['Dice'])}")
        lines += [
            f"report:      {self.folder / 'report.html'}",
            f"weights:     {self.folder / 'weights_last.safetensors'}",
            f"predictions: {self.folder / 'predictions'}",
            f"new scans:   medfuse infer {self.folder} --input FOLDER --output FOLDER",
        ]
        return "\n".join(lines)


def run_pipeline(
    file: Path, overrides: Iterable[str] = (), *, runs: Path = Path("runs"), reporter: Reporter
) -> RunResult:
    """Every stage of a pipeline file, each of which carries on where an earlier run of it stopped."""
    pipeline, document = load_pipeline(file, overrides)
    with _located(document):
        info = _read_dataset(pipeline)
        return _Run(pipeline, document, info, runs, reporter).stages()


class _Run:
    """One run folder, and the stages that fill it."""

    def __init__(
        self, pipeline: Pipeline, document: Document, info: DatasetInfo, runs: Path, reporter: Reporter
    ) -> None:
        from medfuse.data.split import choose_split

        self.pipeline, self.info, self.reporter = pipeline, info, reporter
        self.split: Split = choose_split(info, pipeline.split)
        self.cases = {case.name: case for case in info.cases}
        self.store_folder = runs / "prepared" / info_name(pipeline)
        self.folder = runs / pipeline.name
        _refuse_another_pipeline(self.folder, pipeline)
        make_folder(self.folder)

    def stages(self) -> RunResult:
        plan = self.prepare()
        graph = _plan_graph(self.pipeline, plan.image, len(plan.values))
        store = self.fill_store(plan)
        self.train(plan, graph, store)
        self.infer()
        evaluation = self.evaluate()
        self.report(graph, evaluation, self.pictures(plan, graph, evaluation))
        return RunResult(self.folder, evaluation)

    def prepare(self) -> DataPlan:
        """Check every case, plan every `auto` value, verify the graph; write down all of it."""
        from medfuse.data.fingerprint import take_fingerprint
        from medfuse.data.plan import make_plan
        from medfuse.model.verify import verify

        labelled = [case for case in self.info.cases if case.label]
        with self.reporter.track(f"checking {len(labelled)} cases", len(labelled)) as advance:
            fingerprint = take_fingerprint(
                labelled,
                self.info,
                tolerance_mm=self.pipeline.preprocess.tolerance_mm,
                progress=lambda done, _: advance(done, ""),
            )
        plan = make_plan(fingerprint, self.info, self.pipeline.preprocess, self.pipeline.sample)
        for what, reason in plan.reasons.items():
            self.reporter.say(f"  {what}: {_planned(plan, what)}: {reason}")
        graph = _plan_graph(self.pipeline, plan.image, len(plan.values))
        facts = verify(graph)
        problems = _parameter_problems(self.pipeline, facts, fresh=self.is_fresh())
        problems += _pseudo_problems(self.pipeline, graph, self.info) + _report_problems(self.pipeline, graph)
        if problems:
            raise PipelineError(problems)
        self.reporter.say(f"  network: {facts.parameters:,} parameters")
        write_text(self.folder / "resolved.yaml", _yaml(_resolved(self.pipeline, plan)))
        write_json(self.folder / "plan.json", {"data": plan.to_json(), "graph": graph.rows()})
        write_json(self.folder / "fingerprint.json", fingerprint.to_json())
        hashes = {file: digest for case in fingerprint.cases for file, digest in case.files.items()}
        hashes |= {str(file): file_hash(file) for case in self.unlabelled() for file in case.images}
        write_json(self.folder / "lock.json", _lock(self.pipeline, hashes))
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

    def train(self, plan: DataPlan, graph: GraphPlan, store: Store) -> None:
        """Weights from batches; the rooms meet in the closures that are handed to `fit`."""
        import torch
        from lightning_fabric import Fabric

        from medfuse.core.device import channels_last, choose_precision, lay_out, pick_device, settle
        from medfuse.data.loader import training_batches
        from medfuse.model.segmenter import build_segmenter
        from medfuse.model.weights import save_weights
        from medfuse.train.guided import Guided
        from medfuse.train.loop import fit, is_finished
        from medfuse.train.objective import ActivationTerm, Objective
        from medfuse.train.pseudo import PseudoLabels

        settings, aux = self.pipeline.train, self.pipeline.model.aux
        if is_finished(self.folder, settings):
            self.reporter.say("trained already")
            return
        device = pick_device(settings.device)
        settle(device)
        torch.manual_seed(self.pipeline.seed)
        model = build_segmenter(graph)
        if self.is_fresh():
            self.transfer(model)
        model.to(device)
        lay_out(model, len(plan.patch_size) + 2, channels_last(len(plan.patch_size) + 2))

        def batches(start: int, *, labelled: bool = True) -> Generator[Mapping[str, Tensor], None, None]:
            return training_batches(
                store,
                self.split.train if labelled else [case.name for case in self.unlabelled()],
                plan,
                self.pipeline.sample,
                self.pipeline.augment,
                seed=self.pipeline.seed,
                start_step=start,
                unlabelled=not labelled,
            )

        # two patches, as torch takes another and slower path for one (slow_conv3d)
        example = torch.randn(2, plan.image.channels, *plan.patch_size, device=device)
        precision = choose_precision(settings.precision, model, example, backward=True)
        self.reporter.say(f"training on {device.type} in {precision.kind}: {precision.reason}")
        fabric = Fabric(
            accelerator=device.type,
            devices=1,
            precision="bf16-mixed" if precision.kind == "bf16" else "32-true",
        )
        loss = self.pipeline.loss.build(len(plan.values))
        objective = Objective(
            loss,
            graph.aux,
            aux.schedule if aux else None,
            aux.loss.build(len(plan.values)) if aux and aux.loss else None,
            aux.schedule.balance(len(graph.aux)) if aux else None,
            tuple(
                ActivationTerm(a.name, tuple(m.name for m in a.maps), a.loss.weight, a.loss.build(a.maps))
                for a in graph.activations
            ),
        )

        pseudo, guided = settings.pseudo_labels, settings.guided

        def save(kind: str, network: nn.Module, facts: Mapping[str, float]) -> None:
            path = self.folder / f"weights_{kind}.safetensors"
            save_weights(path, network, {**_weights_facts(self.pipeline, plan), "trained": dict(facts)})

        done = fit(
            model,
            fabric=fabric,
            settings=settings,
            objective=objective,
            batches=batches,
            validate=lambda network: self.validate(network, plan, store, device, fabric.autocast),
            save=save,
            folder=self.folder,
            reporter=self.reporter,
            guided=Guided(guided, plan.image.spacing_mm, self.pipeline.seed) if guided else None,
            pseudo=PseudoLabels(pseudo, partial(batches, labelled=False), self.teacher(plan))
            if pseudo
            else None,
        )
        self.reporter.say(f"trained {done.step} steps in {done.seconds / 60:.1f} minutes")

    def is_fresh(self) -> bool:
        """Whether nothing has been trained here yet."""
        return not (self.folder / "training_state.pt").exists()

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
        path = _weights_file(settings.teacher, best=False)
        trained = load_trained([path], device=self.pipeline.train.device)
        differing = [
            what
            for what in ("labels", "channels", "spacing_mm", "normalization")
            if getattr(trained.plan, what) != getattr(plan, what)
        ]
        if trained.plan.image.dims != plan.image.dims:
            differing.append("number of axes")
        if differing:
            raise CheckpointError(
                f"{path}: not a teacher of this run, as it was trained with other {', '.join(differing)}; "
                "train it on this dataset with the same `preprocess`"
            )
        return trained.networks[0]

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
        from medfuse.report.metrics import dice_per_class

        def windows(batch: Tensor) -> Tensor:
            with autocast():
                return network(batch).float()

        found: dict[str, list[float]] = {}
        for name in self.split.validation[: self.pipeline.train.validation_cases]:
            image, label = store.read_case(name)
            logits = predict_logits(
                image,
                windows,
                patch_size=plan.patch_size,
                classes=len(plan.values),
                overlap=self.pipeline.infer.overlap,
                batch_size=self.pipeline.infer.batch_size,
                device=device,
            )
            scores = dice_per_class(logits.argmax(0).cpu().numpy(), label, plan.classes)
            for label_name, dice in scores.items():
                found.setdefault(label_name, []).append(dice)
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
        """Metrics of the held-out cases on the grids of their own files; summary.json."""
        from medfuse.infer.cases import output_name
        from medfuse.report.evaluate import Pair, evaluate_pairs
        from medfuse.report.summary import write_summary

        pairs = []
        for name in self.split.validation:
            case = self.cases[name]
            assert case.label is not None, "a split has labelled cases only"
            pairs.append(Pair(name, self.folder / "predictions" / output_name(case), case.label))
        evaluation = evaluate_pairs(
            pairs,
            self.info.labels,
            tolerance_mm=self.pipeline.preprocess.tolerance_mm,
            reporter=self.reporter,
        )
        write_summary(self.folder / "summary.json", evaluation)
        return evaluation

    def pictures(self, plan: DataPlan, graph: GraphPlan, evaluation: Evaluation) -> dict[str, list[Picture]]:
        """What the pipeline's `report` asks to see of the network, for the cases that the report shows."""
        from medfuse.data.prepare import Preprocessor
        from medfuse.inside import CaseInside, draw_inside
        from medfuse.model.selection import select
        from medfuse.report.html import chosen_cases

        settings = self.pipeline.report
        maps, gradcam = select(graph, settings.maps), select(graph, settings.gradcam)
        if not maps and not gradcam:
            return {}
        path = self.folder / "weights_last.safetensors"
        network = load_trained([path], device=self.pipeline.train.device).networks[0]
        preprocessor = Preprocessor(plan, self.pipeline.preprocess.tolerance_mm)
        chosen = [judged for _, judged in chosen_cases(evaluation.cases)]
        made = {}
        with self.reporter.track("drawing what is inside the network", len(chosen)) as advance:
            for done, judged in enumerate(chosen, 1):
                case = replace(self.cases[judged.name], label=judged.pair.prediction)
                prepared = preprocessor.prepare(case)
                inside = CaseInside(prepared.image, preprocessor.prepare_label(case, prepared))
                made[case.name] = draw_inside(
                    network, inside, plan.image, maps=maps, gradcam=gradcam, labels=plan.classes[1:]
                )
                advance(done, case.name)
        return made

    def report(
        self, graph: GraphPlan, evaluation: Evaluation, pictures: Mapping[str, Sequence[Picture]]
    ) -> None:
        from medfuse.report.html import ReportContent, write_report
        from medfuse.train.log import read_rows

        lock = json.loads((self.folder / "lock.json").read_text(encoding="utf-8"))
        repeat = {key: _yaml(value).strip() for key, value in lock.items() if key != "data"}
        repeat["data (SHA-256)"] = "\n".join(f"{digest}  {file}" for file, digest in lock["data"].items())
        content = ReportContent(
            name=self.pipeline.name,
            date=lock["started"],
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


def _read_dataset(pipeline: Pipeline) -> DatasetInfo:
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


def _resolved(pipeline: Pipeline, plan: DataPlan) -> dict[str, Any]:
    """The pipeline with every `auto` value that the data decided."""
    values = resolved(pipeline)
    values["preprocess"]["spacing_mm"] = list(plan.spacing_mm)
    values["sample"] |= {"patch_size": list(plan.patch_size), "batch_size": plan.batch_size}
    return values


def _refuse_another_pipeline(folder: Path, pipeline: Pipeline) -> None:
    """A run folder holds one pipeline; its budget, device and inference may change when it is carried on."""
    source = folder / "pipeline.json"
    now = json.loads(json.dumps(_identity(pipeline)))
    if source.exists():
        before = json.loads(source.read_text(encoding="utf-8"))
        if differing := list(_differences(before, now)):
            raise MedfuseError(
                f"{folder} holds the run of another pipeline ({'; '.join(differing[:3])}); "
                "give this one another name (--set name=…), or delete that folder"
            )
    else:
        make_folder(folder)
        write_json(source, now)


def _identity(pipeline: Pipeline) -> dict[str, Any]:
    values = resolved(pipeline)
    kept = {key: value for key, value in values.items() if key not in _FREE}
    return {**kept, "train": {key: values["train"].get(key) for key in _FIXED_TRAIN}}


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif before != now and not (before is None and now == {}):  # a setting that is younger than the run
        yield f"{path} was {before!r}, is {now!r}"


def _lock(pipeline: Pipeline, hashes: Mapping[str, str]) -> dict[str, Any]:
    """What it takes to do the same again."""
    import torch

    plugins = {
        f"{e.package} {e.version}"
        for contract in registry.CONTRACTS
        for e in registry.entries(contract.group)
        if e.package != "medfuse"
    }
    packages = ("torch", "monai", "numpy", "scipy", "nibabel", "SimpleITK", "lightning-fabric", "blosc2")
    return {
        "medfuse": medfuse.__version__,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "plugins": sorted(plugins),
        "seed": pipeline.seed,
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "data": dict(hashes),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def graph_nodes(graph: GraphPlan) -> list[Any]:
    """The graph in the report's own terms."""
    from medfuse.report.graph import GraphNode

    return [GraphNode(v.name, v.kind, v.text, v.inputs) for v in graph.views()]


# ---------------------------------------------------------------------------------------------- infer


def _weights_facts(pipeline: Pipeline, plan: DataPlan) -> dict[str, Any]:
    """What inference needs beside the tensors: the model, its data plan, the settings of its windows."""
    values = resolved(pipeline)
    return {
        "medfuse": medfuse.__version__,
        "name": pipeline.name,
        "fold": pipeline.split.fold,
        "model": values["model"],
        "watched": [*_watched(pipeline)],
        "infer": values["infer"],
        "data": plan.to_json(),
    }


@dataclass(frozen=True)
class Trained:
    """Trained networks (one, or the folds of one model) with all that inference needs."""

    networks: tuple[Segmenter, ...]
    hashes: tuple[str, ...]
    graph: GraphPlan
    plan: DataPlan
    settings: InferSettings
    device: torch.device

    def infer(self, cases: Sequence[Case], output: Path, reporter: Reporter) -> Any:
        """Label maps of `cases` into `output`. Returns what became of each (infer.folder.Outcome)."""
        from medfuse.data.prepare import Preprocessor
        from medfuse.infer.folder import Recipe, infer_cases

        runtime = self.settings.runtime or registry.get(Runtime.group, "torch")()
        assert isinstance(runtime, Runtime)
        recipe = Recipe(self.hashes, self.plan.labels, self.plan.patch_size, self.settings)
        with reporter.track(f"predicting {len(cases)} cases", 100 * len(cases)) as advance:
            return infer_cases(
                cases,
                prepare=Preprocessor(self.plan).prepare,
                networks=[_Prepared(runtime, network) for network in self.networks],
                recipe=recipe,
                output=output,
                device=self.device,
                progress=case_progress(reporter, advance),
            )


def case_progress(reporter: Reporter, advance: Advance) -> Callable[[Progress], None]:
    """Moves a bar of 100 units a case, and names those that fail."""

    def progress(now: Progress) -> None:
        part = now.windows_done / now.windows if now.windows else float(now.state != "predicting")
        advance(int(100 * (now.number - 1 + part)), now.case)
        if now.state == "failed":
            reporter.say(f"{now.case}: failed: {now.reason}")

    return progress


class _Prepared:
    """A network that its runtime prepares when it sees the first real windows."""

    def __init__(self, runtime: Runtime, model: nn.Module) -> None:
        self._runtime, self._model = runtime, model
        self._run: Callable[[Tensor], Tensor] | None = None

    def __call__(self, windows: Tensor) -> Tensor:
        if self._run is None:
            self._run = self._runtime.prepare(self._model, windows)
        return self._run(windows)


def load_trained(
    paths: Sequence[Path],
    *,
    device: str = "auto",
    settings: InferSettings | None = None,
    overrides: Iterable[str] = (),
    maps: Sequence[str] = (),
) -> Trained:
    """Load weights files, which must be folds of one model. Raises CheckpointError.

    `maps` are names and globs of the maps that the networks must be able to hand out; layers that the graph
    does not tap are tapped for them. Raises MedfuseError for one that there is not.
    """
    from medfuse.core.device import pick_device, settle
    from medfuse.data.plan import DataPlan
    from medfuse.model.segmenter import build_segmenter
    from medfuse.model.selection import tap_further
    from medfuse.model.weights import load_into, load_weights

    where = pick_device(device)
    settle(where)
    networks, graphs, plans = [], [], []
    for path in paths:
        state, facts = load_weights(path)
        try:
            plan = DataPlan.from_json(facts["data"])
            model = ModelSettings.model_validate(facts["model"])
            watched = dict.fromkeys(facts.get("watched", ()), ())
            graph = plan_graph(model, plan.image, len(plan.values), watched)
            own = InferSettings.model_validate(facts["infer"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: was not written by this version of medfuse ({error}); train again, or install "
                f"medfuse {facts.get('medfuse', 'of its time')}"
            ) from error
        graph = tap_further(graph, maps)
        network = build_segmenter(graph)
        if maps and (untrained := [name for name in network.state_dict() if name not in state]):
            raise CheckpointError(
                f"{path}: has no weights for {', '.join(untrained[:2])}, …, which {', '.join(maps)} would "
                "need; choose layers up to the deepest that the run tapped"
            )
        load_into(network, state, path)
        networks.append(network.to(where).eval())
        graphs.append(graph)
        plans.append(plan)
        settings = settings or own
    for path, plan in zip(paths, plans):
        if (plan.labels, plan.channels, plan.spacing_mm, plan.patch_size) != (
            plans[0].labels,
            plans[0].channels,
            plans[0].spacing_mm,
            plans[0].patch_size,
        ):
            raise CheckpointError(
                f"{path}: its labels, channels, spacing or patch size differ from those of {paths[0]}; "
                "average folds of one model only"
            )
    assert settings is not None, "there is at least one path"
    return Trained(
        tuple(networks),
        tuple(file_hash(path) for path in paths),
        graphs[0],
        plans[0],
        _overridden(settings, overrides),
        where,
    )


def _overridden(settings: InferSettings, overrides: Iterable[str]) -> InferSettings:
    from pydantic import ValidationError

    document = Document(settings.model_dump(mode="json", exclude_none=True), {}, {}, "--set")
    for override in overrides:
        document.override(override)
    try:
        return InferSettings.model_validate(document.data)
    except ValidationError as error:
        from medfuse.pipeline import problems_of

        raise document.located(PipelineError(list(problems_of(error, InferSettings)))) from None


@dataclass(frozen=True)
class Inferred:
    """What `medfuse infer` says at its end."""

    text: str
    failed: bool


def infer_volumes(
    weights: Sequence[Path],
    inputs: Sequence[Path],
    output: Path,
    *,
    overrides: Iterable[str] = (),
    best: bool = False,
    device: str = "auto",
    reporter: Reporter,
) -> Inferred:
    """Label maps of every volume in `inputs`."""
    from medfuse.infer.cases import find_inputs

    model = load_trained(
        [_weights_file(path, best=best) for path in weights], device=device, overrides=overrides
    )
    cases = find_inputs(inputs, model.plan.channels)
    return outcome_text(model.infer(cases, output, reporter), output)


def outcome_text(outcome: Outcome, output: Path) -> Inferred:
    """How many cases were written, were finished already, and failed, with the reasons."""
    lines = [f"{len(outcome.done)} written, {len(outcome.skipped)} were finished already: {output}"]
    if outcome.failed:
        lines += [f"{len(outcome.failed)} failed:"]
        lines += [f"  {name}: {reason}" for name, reason in outcome.failed.items()]
    return Inferred("\n".join(lines), bool(outcome.failed))


def _weights_file(path: Path, *, best: bool) -> Path:
    """The weights that a run folder or a path stands for."""
    if path.is_dir():
        path = path / f"weights_{'best' if best else 'last'}.safetensors"
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; give a run folder such as runs/liver, or a .safetensors file"
        )
    return path


# ------------------------------------------------------------------------------------------- evaluate


def evaluate_label_maps(
    predictions: Path, references: Path, names: Sequence[str], *, output: Path | None, reporter: Reporter
) -> str:
    """Judge a folder of label maps against another; write summary.json; return a table."""
    from medfuse.report.evaluate import evaluate_folders
    from medfuse.report.summary import summarise, write_summary

    labels = dict(map(_label, names)) or None
    evaluation = evaluate_folders(predictions, references, labels, reporter=reporter)
    target = make_folder(output or predictions) / "summary.json"
    write_summary(target, evaluation)
    summary = summarise(evaluation)
    rows = [f"{'label':<16}{'Dice':>9}{'HD95 mm':>9}{'NSD':>9}{'n':>5}"]
    for name, value in evaluation.labels.items():
        mean, n = summary["mean"][str(value)], summary["n"][str(value)]
        rows.append(
            f"{name:<16}"
            + "".join(f"{_number(mean[k]):>9}" for k in ("Dice", "HD95", "NSD"))
            + f"{n['Dice']:>5}"
        )
    if evaluation.errors:
        raise DataError(*rows, *evaluation.errors, f"the other cases are in {target}")
    return "\n".join([*rows, *evaluation.notes, str(target)])


def _label(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if not name or not value.isdigit():
        raise MedfuseError(f"--label {text}: write it as NAME=VALUE, such as liver=1")
    return name, int(value)


@contextmanager
def _located(document: Document) -> Iterator[None]:
    """Add file, line and column to problems that are found after the file was read."""
    try:
        yield
    except PipelineError as error:
        raise document.located(error) from None
