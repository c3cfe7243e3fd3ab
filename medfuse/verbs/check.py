"""`medfuse check`: a pipeline file held against its dataset and the meta device, without opening an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from medfuse.api import DatasetInfo, ImageInfo, Origin
from medfuse.core.errors import DataError, PipelineError, Problem
from medfuse.core.result import Result
from medfuse.core.text import aligned, by
from medfuse.data.plan import counted_inputs
from medfuse.model.plan import GraphPlan
from medfuse.pipeline import Pipeline, Source, load_pipeline, plan_network
from medfuse.runs.frozen_check import foretold
from medfuse.runs.problems import dataset_problems, objective_problems, placed_split, setting_problems
from medfuse.runs.weights import advice, origins, scaling_problems, weights_lines
from medfuse.volumes.endings import is_picture

if TYPE_CHECKING:
    from medfuse.model.verify import VerifiedFacts

CHECK_PATCH = 64  # voxels per axis that `check` assumes where patch_size is left to the data


def check_pipeline(file: Source, overrides: Iterable[str] = ()) -> Result:
    """Plan the graph of a pipeline, verify it on the meta device; return the table of features.

    Reads the dataset's text files, opens no image. Raises PipelineError with every problem located.
    """
    pipeline, document = load_pipeline(file, overrides)
    problems: list[Problem] = []
    split_doubts: list[str] = []
    info: DatasetInfo | None = None
    try:
        info = pipeline.data.read()
    except DataError as error:
        problems += dataset_problems(pipeline, error)
    found: Mapping[str, Origin] = {}
    try:
        found = origins(pipeline)
    except PipelineError as error:
        problems += error.problems
    image = nominal_image(pipeline, info, found)
    try:
        graph = plan_network(pipeline, image, len(info.outputs) if info else 2)
        facts = _verified(pipeline, graph) if not problems else None
        problems += setting_problems(pipeline, graph, facts, info, fresh=True)
        problems += scaling_problems(pipeline, found, info.channels if info else ())
        if info:
            split_doubts = _split_doubts(pipeline, info)
        if info and facts:
            problems += objective_problems(pipeline, graph, facts, info, all_losses=False)
    except PipelineError as error:
        problems += error.problems
    if problems:
        raise document.located(PipelineError([*dict.fromkeys(problems)]))
    assert info is not None
    assert facts is not None
    from medfuse.runs.doubts import network_doubts

    assumed = (
        " (assumed: patch_size is planned from the data)" if pipeline.sample.patch_size == "auto" else ""
    )
    aux = pipeline.model.aux
    fixed = dict(zip(("main", *graph.aux), aux.fixed(len(graph.aux)) if aux else ()))
    weights = ", ".join(f"{name} {weight:g}" for name, weight in fixed.items())
    pretrained, later = weights_lines(pipeline, found), foretold(pipeline, graph, facts, info)
    doubts = [*network_doubts(pipeline, graph)]
    data = f"{len(info.cases)} cases, channels {', '.join(info.channels)}, labels {', '.join(info.labels)}"
    lines = [
        f"{document.source}: {data}",
        *info.notes,
        *split_doubts,
        f"patch {by(image.patch_size)}{assumed}",
        "",
        graph.table(),
        *(["", f"weights of losses: {weights}"] if weights else []),
        *(["", *pretrained] if pretrained else []),
        *(["", *facts.notes] if facts.notes else []),
        *_rates(pipeline, facts),
        *(["", *doubts] if doubts else []),
        "",
        f"{facts.parameters:,} parameters; every declared shape agrees with the real one",
        *later,
    ]
    said = {
        "file": document.source,
        "cases": len(info.cases),
        "channels": info.channels,
        "labels": info.labels,
        "patch_size": image.patch_size,
        "patch_is_assumed": bool(assumed),
        "features": graph.rows(),
        "loss_weights": fixed,
        "parameters": facts.parameters,
        "notes": [*info.notes, *split_doubts, *pretrained, *facts.notes, *doubts, *later],
    }
    return Result("\n".join(lines), said, page=lambda: _page(graph, lines), rows=graph.rows)


def _page(graph: GraphPlan, lines: Sequence[str]) -> str:
    """The graph as a picture, above the table."""
    from html import escape

    from medfuse.report.graph import graph_svg
    from medfuse.runs.judging import graph_nodes

    picture = graph_svg(graph_nodes(graph)).decode()
    return f"{picture[picture.index('<svg') :]}<pre>{escape(chr(10).join(lines))}</pre>"


def _verified(pipeline: Pipeline, graph: GraphPlan) -> VerifiedFacts:
    from medfuse.model.verify import verify  # and torch, which a mistake in the file does not wait for
    from medfuse.train.parts import needs_depths

    return verify(graph, with_depths=needs_depths(pipeline.train.parts))


def _rates(pipeline: Pipeline, facts: VerifiedFacts) -> list[str]:
    """At what rate each part learns, where parts are told apart."""
    from medfuse.train.optimizer import peak_rate
    from medfuse.train.parts import rate_rows

    if not pipeline.train.parts:
        return []
    rows = rate_rows(pipeline.train.parts, facts.parameter_shapes, facts.depths, peak_rate(pipeline.train))
    return ["", aligned([("learning rates", "parameters", "factor", "peak rate"), *rows])]


def _split_doubts(pipeline: Pipeline, info: DatasetInfo) -> list[str]:
    """What the split leaves out, where it can be told before label maps are opened."""
    from medfuse.data.doubts import split_doubts, unjudged_doubts
    from medfuse.data.split import given_splits

    if pipeline.split.stratify and pipeline.split.fold != "all":
        return []
    split = placed_split(pipeline, info)
    given = given_splits(info, pipeline.split)
    return [*unjudged_doubts(split, given), *split_doubts(info, split)]


def nominal_image(
    pipeline: Pipeline, info: DatasetInfo | None, found: Mapping[str, Origin] | None = None
) -> ImageInfo:
    """What the network will be given, as far as it is known before any image is opened.

    `found`: where the weights of its backbones come from, which may decide how images are scaled.
    """
    patch = pipeline.sample.patch_size
    pictures = info is not None and all(is_picture(case.images[0]) for case in info.cases)
    size = (CHECK_PATCH,) * (2 if pictures else 3) if patch == "auto" else patch
    spacing = pipeline.preprocess.spacing_mm
    spacing_mm = (1.0,) * 3 if spacing == "auto" else spacing
    channels = info.channels if info else ("",)
    advised = advice(pipeline, found or {}, channels)
    scaled = advised.normalize if advised else pipeline.preprocess.normalize
    return ImageInfo(counted_inputs(channels, scaled), size, spacing_mm[: len(size)])
