"""What a run says before training: what its dataset holds beside its cases, and what will not be learned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.core.errors import CheckpointError
from medfuse.core.text import listed
from medfuse.runs.records import DATA, TrainedOn, read_record
from medfuse.runs.run import Run, teacher_weights

if TYPE_CHECKING:
    from medfuse.data.fingerprint import Fingerprint
    from medfuse.data.plan import DataPlan
    from medfuse.model.plan import GraphPlan
    from medfuse.pipeline import Pipeline


def doubts(run: Run, fingerprint: Fingerprint, plan: DataPlan, data: TrainedOn) -> Iterator[str]:
    """One line for each; what is unsound has been refused before."""
    from medfuse.data.doubts import (
        label_doubts,
        patch_doubts,
        plane_doubts,
        split_doubts,
        unjudged_doubts,
        unlabelled_doubts,
    )
    from medfuse.data.split import given_splits, patients
    from medfuse.data.suspicions import suspicions
    from medfuse.train.budget import Budget, too_few

    yield from run.info.notes
    yield from unjudged_doubts(run.split, given_splits(run.info, run.pipeline.split))
    yield from split_doubts(run.info, run.split)
    yield from unlabelled_doubts(run.unlabelled(), patients(run.info.cases, run.pipeline.split), run.split)
    yield from _seen_doubts(run, data)
    yield from label_doubts(run.info, fingerprint.cases, run.split)
    for suspicion in suspicions(
        fingerprint, run.info, plan.spacing_mm, normalization=plan.normalization, split=run.split
    ):
        yield suspicion.line
    yield from patch_doubts(len(plan.classes), plan.patch_size)
    yield from plane_doubts(plan.patch_size, fingerprint.cases)
    steps = Budget.of(run.pipeline.train).steps
    if steps and not run.pipeline.model.transfer and (warning := too_few(steps)):
        yield warning


FEW = 8  # channels from which any number of classes can be told


def network_doubts(pipeline: Pipeline, graph: GraphPlan) -> Iterator[str]:
    """What of a network will not learn, and where it loses what it has learned."""
    yield from still_doubts(pipeline, graph)
    yield from narrow_doubts(graph)


def narrow_doubts(graph: GraphPlan) -> Iterator[str]:
    """Nodes that make fewer channels than there are classes, of maps that have as many.

    As the last stage of a decoder does whose finest skip is `image`. A single region is two classes, inside
    and outside. Of nodes whose channels can be set: a gate has those of what it weighs.
    """
    needed = min(max(graph.classes, 2), FEW)
    for node in graph.nodes:
        given, made = max(x.channels for x in node.inputs), node.output.channels
        if made < needed <= given and "channels" in type(node.block).model_fields:
            yield (
                f"warning: model.fusion.{node.name} makes {made} channel{'s' * (made > 1)} of maps of up to "
                f"{given}, too few to tell labels apart; give it more, such as channels: 16"
            )


def still_doubts(pipeline: Pipeline, graph: GraphPlan) -> Iterator[str]:
    """Backbones that no loss teaches, as the teacher of a distillation, and those that nobody ever taught."""
    from medfuse.model.still import untaught

    still = untaught(graph)
    for b in graph.backbones:
        if b.name not in still:
            continue
        yield (
            f"backbone {b.name}: no loss teaches it, so it stands still: weights and running statistics stay "
            "as they are; a head or another loss on its maps would teach it"
        )
        if b.name not in pipeline.model.transfer and b.backbone.origin() is None:
            yield (
                f"warning: backbone {b.name} stands still with fresh weights, which know nothing; give it "
                f"those of a trained network: model.transfer.{b.name}"
            )


def _seen_doubts(run: Run, data: TrainedOn) -> Iterator[str]:
    """Runs that weights come from or that make pseudo-labels, and held-out cases that trained those."""
    sources = {f"model.transfer.{name}": given.weights for name, given in run.pipeline.model.transfer.items()}
    for what, path in {**sources, "train.pseudo_labels.teacher": teacher_weights(run.pipeline)}.items():
        names = _seen(path, data) if path else []
        if names:
            are = "held-out case" if len(names) == 1 else "held-out cases"
            yield (
                f"warning: {what}: {path} was trained on {len(names)} {are} of this run: {listed(names)}; "
                "Dice here will be too high: take a run that held them out, as the same fold does"
            )


def _seen(path: Path, data: TrainedOn) -> list[str]:
    """Held-out cases whose images trained the weights in a run folder; none where it does not say."""
    try:
        before = read_record(TrainedOn, path.parent / DATA)
    except CheckpointError:
        return []
    seen = {image for name in before.train if name in before.cases for image in before.cases[name].images}
    return [name for name in data.validation if seen & {*data.cases[name].images}]
