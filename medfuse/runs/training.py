"""The training stage of `medfuse run`: a network learns from the prepared cases."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from medfuse.core.errors import CheckpointError
from medfuse.core.files import write_json
from medfuse.model.graph import GraphPlan
from medfuse.runs.folder import kept_precision
from medfuse.trained.loading import load_trained, weights_facts, weights_file

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric
    from torch import Tensor, nn

    from medfuse.core.device import Precision
    from medfuse.data.plan import DataPlan
    from medfuse.data.store import Store
    from medfuse.model.segmenter import Segmenter
    from medfuse.runs.run import Run
    from medfuse.train.objective import Objective


@dataclass(frozen=True)
class Begun:
    """What a training consists of before its first step."""

    model: Segmenter
    fabric: Fabric
    objective: Objective
    batches: Callable[..., Generator[Mapping[str, Any], None, None]]


def begin(run: Run, plan: DataPlan, graph: GraphPlan, store: Store) -> Begun:
    """The network, its objective and its batches, on the device and in the precision of training."""
    from medfuse.core.device import pick_device, settle
    from medfuse.core.layout import channels_last, lay_out
    from medfuse.data.loader import training_batches
    from medfuse.model.segmenter import build_segmenter
    from medfuse.train.objective import ActivationTerm, Objective
    from medfuse.train.state import seed_chance
    from medfuse.train.targets import supervised
    from medfuse.train.together import make_fabric

    settings, aux = run.pipeline.train, run.pipeline.model.aux
    device = pick_device(settings.device)
    settle(device, deterministic=settings.deterministic)
    seed_chance(run.pipeline.seed)
    model = build_segmenter(graph)
    if run.is_fresh() and run.together.is_first:
        _transfer(run, model)  # the others take over its weights
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

    precision = run.together.first(lambda: _precision(run, model, plan, device))
    run.reporter.say(f"training on {device.type} in {precision.kind}: {precision.reason}")
    fabric = make_fabric(device, "bf16-mixed" if precision.kind == "bf16" else "32-true")
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
    )

    return Begun(model, fabric, objective, batches)


def train(run: Run, plan: DataPlan, graph: GraphPlan, store: Store) -> None:
    """Weights from batches; the rooms meet in the closures that are handed to `fit`."""
    from medfuse.model.weights import save_weights
    from medfuse.train.guided import Guided
    from medfuse.train.loop import fit, is_finished
    from medfuse.train.pseudo import PseudoLabels

    settings = run.pipeline.train
    if is_finished(run.folder, settings) and _has_weights(run):
        run.reporter.say("trained already")
        return
    begun = begin(run, plan, graph, store)
    fabric, pseudo, guided = begun.fabric, settings.pseudo_labels, settings.guided

    def save(kind: str, network: nn.Module, facts: Mapping[str, float]) -> None:
        path = run.folder / f"weights_{kind}.safetensors"
        save_weights(path, network, {**weights_facts(run.pipeline, plan), "trained": dict(facts)})

    done = fit(
        begun.model,
        fabric=fabric,
        settings=settings,
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
        pseudo=PseudoLabels(pseudo, partial(begun.batches, labelled=False), _teacher(run, plan))
        if pseudo
        else None,
    )
    run.reporter.say(f"trained {done.step} steps in {done.seconds / 60:.1f} minutes")


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


def _precision(run: Run, model: nn.Module, plan: DataPlan, device: torch.device) -> Precision:
    """What training computes in: as asked for, or what a probe chose when this run began."""
    import torch

    from medfuse.core.device import choose_precision

    settings = run.pipeline.train

    def choose() -> Precision:
        # two patches, as torch takes another and slower path for one (slow_conv3d)
        example = torch.randn(2, plan.image.channels, *plan.patch_size, device=device)
        return choose_precision(
            settings.precision, model, example, backward=True, deterministic=settings.deterministic
        )

    if settings.precision != "auto" or settings.deterministic:
        return choose()
    return kept_precision(run.folder, device.type, choose)


def _transfer(run: Run, model: Segmenter) -> None:
    """Give backbones the weights that they start from; say and write down what became of each tensor."""
    from medfuse.model.transfer import transfer

    made = transfer(model, run.pipeline.model.transfer)
    for name, taken in made.items():
        run.reporter.say(f"  {name}: {taken.summary()}")
    if made:
        table = run.folder / "transfer.json"
        write_json(table, {name: taken.to_json() for name, taken in made.items()})
        run.reporter.say(f"  {table} lists them all")


def _teacher(run: Run, plan: DataPlan) -> Segmenter | None:
    """The network of another run that makes pseudo-labels; None where this one teaches itself.

    Raises CheckpointError where it would see these images otherwise than its own.
    """
    settings = run.pipeline.train.pseudo_labels
    if settings is None or settings.teacher == "self":
        return None
    path = weights_file(settings.teacher, best=False)
    trained = load_trained([path], device=run.pipeline.train.device, trust=settings.trust or ())
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
    from medfuse.infer.sliding import predict_logits
    from medfuse.report.metrics import dice_per_class, dice_per_region

    def windows(batch: Tensor) -> Tensor:
        with autocast():
            return network(batch).float()

    found: dict[str, list[float]] = {}
    names = run.split.validation[: run.pipeline.train.validation_cases]
    for name in names[run.together.rank :: run.together.size]:
        image, label = store.read_case(name)
        logits = predict_logits(
            image,
            windows,
            patch_size=plan.patch_size,
            classes=len(plan.classes),
            overlap=run.pipeline.infer.overlap,
            batch_size=run.pipeline.infer.batch_size,
            device=device,
        )
        if plan.regions:
            regions = dict(zip(plan.classes, plan.regions))
            scores = dice_per_region((logits > 0).cpu().numpy(), label, regions, plan.ignored)
        else:
            scores = dice_per_class(logits.argmax(0).cpu().numpy(), label, plan.classes)
        for label_name, value in scores.items():
            found.setdefault(label_name, []).append(value)
    shares = run.together.collect(found)
    labels = dict.fromkeys(name for share in shares for name in share)
    found = {name: [value for share in shares for value in share.get(name, [])] for name in labels}
    means = {name: sum(values) / len(values) for name, values in found.items()}
    if not means:
        return {}
    return {"dice": sum(means.values()) / len(means), **{f"dice/{name}": m for name, m in means.items()}}
