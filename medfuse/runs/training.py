"""The training stage of `medfuse run`: a network learns from the prepared cases."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from medfuse.core.errors import CheckpointError
from medfuse.model.plan import GraphPlan
from medfuse.runs.beginning import Planned, note_stretch, write_records
from medfuse.runs.frozen_maps import set_up
from medfuse.runs.frozen_set import RECORD
from medfuse.runs.records import TRANSFER, read_mapping
from medfuse.runs.run import teacher_weights
from medfuse.runs.teacher import RECORD as TEACHER
from medfuse.runs.teaching import teaching
from medfuse.trained.loading import load_trained, weights_facts

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric
    from torch import nn

    from medfuse.core.device import Precision
    from medfuse.data.plan import DataPlan
    from medfuse.data.store import Store
    from medfuse.model.segmenter import Segmenter
    from medfuse.runs.run import Run
    from medfuse.runs.tracking import Trackers
    from medfuse.train.course import Progress
    from medfuse.train.objective import Objective
    from medfuse.train.settings import TrainSettings
    from medfuse.train.state import Spent
    from medfuse.train.step import Known


_PRECISION = "precision.json"


@dataclass(frozen=True)
class Begun:
    """What a training consists of before its first step; `found`: file → what setting up found out.

    `depths`: of backbones' parameters, where learning rates depend on them.
    `known`: what the network is given of a batch besides its image, where parts of it are frozen.
    `settings`: those of training, with what is done about memory. `segments`: modules whose maps may be
    computed again.
    """

    model: Segmenter
    fabric: Fabric
    objective: Objective
    batches: Callable[..., Generator[Mapping[str, Any], None, None]]
    found: Mapping[str, Any]
    depths: Mapping[str, int]
    settings: TrainSettings
    segments: tuple[str, ...] = ()
    known: Known | None = None


def begin(run: Run, plan: DataPlan, graph: GraphPlan, store: Store) -> Begun:
    """The network, its objective and its batches, on the device and in the precision of training.

    Nothing is written yet.
    """
    from medfuse.core.device import pick_device, settle
    from medfuse.core.layout import channels_last, lay_out
    from medfuse.data.loader import training_batches
    from medfuse.model.segmenter import build_segmenter
    from medfuse.train.objective import ActivationTerm, Objective
    from medfuse.train.state import seed_chance
    from medfuse.train.targets import presence, supervised
    from medfuse.train.together import make_fabric

    settings, aux = run.pipeline.train, run.pipeline.model.aux
    device = pick_device(settings.device)
    settle(device, deterministic=settings.deterministic)
    seed_chance(run.pipeline.seed)
    begins = run.starts and run.together.is_first  # the others take over its weights
    model = build_segmenter(graph, bring_weights=begins)
    found: dict[str, Any] = _given(run, model) if begins else {}
    depths = _depths(run, model, plan)
    model.to(device)
    lay_out(model, len(plan.patch_size) + 2, channels_last(len(plan.patch_size) + 2))

    def batches(start: int, *, labelled: bool = True) -> Generator[Mapping[str, Any], None, None]:
        return training_batches(
            store,
            run.split.train if labelled else [case.name for case in run.unlabelled()],
            plan,
            run.pipeline.sample,
            run.pipeline.augment,
            seed=run.pipeline.seed,
            start_step=start,
            rank=run.together.rank,
            processes=run.together.size,
            unlabelled=not labelled,
        )

    precision, noted = run.together.first(lambda: _precision(run, model, plan, device))
    run.reporter.say(f"training on {device.type} in {precision.kind}: {precision.reason}")
    fabric = make_fabric(device, "bf16-mixed" if precision.kind == "bf16" else "32-true")
    taught = teaching(run.pipeline, plan, graph, fabric.device)
    settle(device, deterministic=settings.deterministic)  # which loading another run changes
    if taught:
        run.reporter.say(f"  {taught[1].foretold()}")
        found |= {TEACHER: taught[1].model_dump(mode="json")} if run.starts else {}
    targets = partial(supervised, classes=len(plan.classes), regions=plan.regions, ignored=plan.ignored)
    objective = Objective(
        targets(run.pipeline.loss),
        graph.aux,
        aux.schedule if aux else None,
        targets(aux.loss) if aux and aux.loss else None,
        aux.schedule.balance(len(graph.aux)) if aux and aux.schedule else None,
        tuple(
            ActivationTerm(a.name, tuple(m.name for m in a.maps), a.loss.weight, a.loss.build(a.maps))
            for a in graph.activations
        ),
        aux.fixed(len(graph.aux)) if aux else (),
        graph.presence,
        presence(len(plan.classes), regions=plan.regions, ignored=plan.ignored),
        taught[0] if taught else None,
    )
    found |= noted
    settings, segments = _within_memory(run, model, plan, graph, device, half=precision.kind == "bf16")
    if settings.frozen_maps is None:
        return Begun(model, fabric, objective, batches, found, depths, settings, segments)
    frozen = set_up(run, plan, graph, store, model, fabric, precision.kind)
    found[RECORD] = frozen.record.model_dump(mode="json")
    labelled_batches = frozen.batches

    def viewed(start: int, *, labelled: bool = True) -> Generator[Mapping[str, Any], None, None]:
        return labelled_batches(start) if labelled else batches(start, labelled=False)

    return Begun(model, fabric, objective, viewed, found, depths, settings, segments, frozen.known)


def _within_memory(
    run: Run, model: Segmenter, plan: DataPlan, graph: GraphPlan, device: torch.device, *, half: bool
) -> tuple[TrainSettings, tuple[str, ...]]:
    """What training does about memory, the same in all processes, and which maps it may compute again."""
    from medfuse.model.held import held
    from medfuse.runs.memory import fitted
    from medfuse.train.saving import splits_alike

    settings = run.pipeline.train
    if settings.checkpointing is False and settings.accumulate != "auto":
        return settings, ()
    batch = plan.batch_size // run.together.size
    kept = held(model, plan.image, graph.aux, batch=batch)
    made = run.together.first(
        lambda: fitted(
            settings,
            kept,
            batch=batch,
            half=half,
            device=device,
            alike=splits_alike(model),
            say=run.reporter.say,
        )
    )
    return made, kept.segments


def train(run: Run, planned: Planned, graph: GraphPlan, store: Store, trackers: Trackers) -> None:
    """Weights from batches; the rooms meet in the closures that are handed to `fit`."""
    from medfuse.train.budget import Budget

    settings, plan = run.pipeline.train, planned.plan
    budget = Budget.of(settings)
    standing = planned.standing
    finished = budget.is_spent(standing.step, standing.seconds)
    if finished and run.together.first(lambda: _has_weights(run)):
        run.reporter.say(f"trained already: {_stands(standing)}, and the budget is {budget}")
        return
    from medfuse.model.weights import save_weights
    from medfuse.train.guided import Guided
    from medfuse.train.loop import fit
    from medfuse.train.pseudo import PseudoLabels

    begun = begin(run, plan, graph, store)
    fabric, pseudo, guided = begun.fabric, settings.pseudo_labels, settings.guided
    teacher = _teacher(run, plan)
    if run.starts:
        run.together.first(lambda: write_records(run, planned, graph, begun.found))
    elif not finished:
        run.together.first(lambda: note_stretch(run, planned, begun.found))
    trackers.begin()

    def save(kind: str, network: nn.Module, facts: Mapping[str, float]) -> None:
        path = run.folder / f"weights_{kind}.safetensors"
        save_weights(path, network, {**weights_facts(run.pipeline, plan), "trained": dict(facts)})

    done = fit(
        begun.model,
        fabric=fabric,
        settings=begun.settings,
        objective=begun.objective,
        batches=begun.batches,
        validate=lambda network: _validate(run, network, plan, store, fabric.device, fabric.autocast),
        save=save,
        folder=run.folder,
        reporter=run.reporter,
        seed=run.pipeline.seed,
        guided=Guided(guided, plan.image.spacing_mm, run.pipeline.seed, run.together.rank)
        if guided
        else None,
        pseudo=PseudoLabels(pseudo, partial(begun.batches, labelled=False), teacher) if pseudo else None,
        labels=_labels(plan),
        depths=begun.depths,
        known=begun.known,
        segments=begun.segments,
        tell=trackers.tell,
    )
    run.reporter.say(f"trained {_stands(done)}")


def _depths(run: Run, model: Segmenter, plan: DataPlan) -> dict[str, int]:
    from medfuse.model.depths import depths
    from medfuse.train.parts import needs_depths

    return depths(model, plan.image) if needs_depths(run.pipeline.train.parts) else {}


def _stands(progress: Progress | Spent) -> str:
    return f"{progress.step} steps in {progress.seconds / 60:.1f} minutes"


def _labels(plan: DataPlan) -> tuple[str, ...]:
    """The name of each class number of a prepared label; of regions, the value in the label map."""
    names = {value: name for name, value in plan.labels.items()}
    return tuple(names.get(value, f"value {value}") for value in plan.values)


def _has_weights(run: Run) -> bool:
    """Whether the last weights are there and whole; if not, the training state still has them."""
    from medfuse.model.weights import load_weights

    path = run.folder / "weights_last.safetensors"
    try:
        load_weights(path)
    except CheckpointError:
        run.reporter.say(f"{path}: is missing or damaged; written anew from the training state")
        return False
    return True


def _precision(
    run: Run, model: nn.Module, plan: DataPlan, device: torch.device
) -> tuple[Precision, dict[str, Any]]:
    """What training computes in, and a record of it where a probe chose, as a run has one precision."""
    import torch

    from medfuse.core.device import Precision, choose_precision

    settings = run.pipeline.train

    def choose() -> Precision:
        # two patches, as torch takes another and slower path for one (slow_conv3d)
        example = torch.randn(2, plan.image.channels, *plan.patch_size, device=device)
        return choose_precision(
            settings.precision, model, example, backward=True, deterministic=settings.deterministic
        )

    if settings.precision != "auto" or settings.deterministic:
        return choose(), {}
    if not run.starts and (kept := _kept_precision(run, device)):
        return Precision(kept, "as the run began"), {}
    chosen = choose()
    return chosen, {_PRECISION: {"device": device.type, "kind": chosen.kind, "reason": chosen.reason}}


def _kept_precision(run: Run, device: torch.device) -> str | None:
    """What was chosen when this run began on such a device."""
    path = run.folder / _PRECISION
    if not path.exists():
        return None
    try:
        before = read_mapping(path)
    except CheckpointError as error:
        run.reporter.say(f"{error.lines[0]} (chosen anew)")
        return None
    kind = before.get("kind")
    return kind if before.get("device") == device.type and kind in ("fp32", "bf16", "fp16") else None


def _given(run: Run, model: Segmenter) -> dict[str, Any]:
    """Say what weights backbones brought along, give them those of `model.transfer`, and return a table of
    what became of both."""
    from medfuse.model.transfer import transfer

    for name, brought in model.brought.items():
        run.reporter.say(f"  {name}: {brought.summary()}")
    made = transfer(model, run.pipeline.model.transfer)
    for name, taken in made.items():
        run.reporter.say(f"  {name}: {taken.summary()}")
    if not (made or model.brought):
        return {}
    run.reporter.say(f"  {run.folder / TRANSFER} lists them all")
    given: dict[str, dict[str, Any]] = {n: {"brought": b.to_json()} for n, b in model.brought.items()}
    for name, taken in made.items():
        given[name] = {**given.get(name, {}), **taken.to_json()}
    return {TRANSFER: given}


def _teacher(run: Run, plan: DataPlan) -> Segmenter | None:
    """The network of another run that makes pseudo-labels; None where this one teaches itself.

    Raises CheckpointError where it would see these images otherwise than its own.
    """
    path = teacher_weights(run.pipeline)
    if path is None:
        return None
    settings = run.pipeline.train.pseudo_labels
    trust = settings.trust or () if settings else ()
    trained = load_trained([path], device=run.pipeline.train.device, trust=trust)
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


def _validate(
    run: Run,
    network: nn.Module,
    plan: DataPlan,
    store: Store,
    device: torch.device,
    autocast: Callable[[], Any],
) -> dict[str, float]:
    """Dice of some held-out cases on the network's grid: a quick look, not the evaluation."""
    from medfuse.runs.looking import dice_of, logits_of

    names = run.split.validation[: run.pipeline.train.validation_cases]
    if not names:
        return {}
    own = names[run.together.rank :: run.together.size]
    with run.reporter.track("validation", len(own)) as advance:

        def cases() -> Iterator[tuple[Any, Any]]:
            for done, name in enumerate(own):
                advance(done, name)
                yield store.read_case(name)

        made = logits_of(network, cases(), plan, run.pipeline.infer, device, autocast)
        found = dice_of(made, plan)
    shares = run.together.collect(found)
    labels = dict.fromkeys(name for share in shares for name in share)
    found = {name: [value for share in shares for value in share.get(name, [])] for name in labels}
    means = {name: sum(values) / len(values) for name, values in found.items()}
    if not means:
        return {}
    return {"dice": sum(means.values()) / len(means), **{f"dice/{name}": m for name, m in means.items()}}
