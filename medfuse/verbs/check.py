"""`medfuse check`: a pipeline file held against its dataset and the meta device, without opening an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from medfuse.core.document import Document
from medfuse.core.errors import PipelineError
from medfuse.core.result import Result
from medfuse.core.text import aligned, by
from medfuse.model.plan import GraphPlan
from medfuse.pipeline import Pipeline, Source, load_stages
from medfuse.runs import teaching
from medfuse.runs.checked import checked
from medfuse.runs.frozen_check import foretold
from medfuse.runs.run import located
from medfuse.runs.weights import weights_lines
from medfuse.searching.begin import space_lines

if TYPE_CHECKING:
    from medfuse.model.verify import VerifiedFacts


def check_pipeline(file: Source, overrides: Iterable[str] = ()) -> Result:
    """Plan the graph of a pipeline, verify it on the meta device; return the table of features.

    Of a cascade both stages'. Reads the dataset's text files, opens no image. Raises PipelineError with every
    problem located.
    """
    return of_stages(
        load_stages(file, overrides), lambda pipeline, document: _check(file, pipeline, document)
    )


def of_stages(
    stages: Sequence[tuple[Pipeline, Document]], said: Callable[[Pipeline, Document], Result]
) -> Result:
    """What is said of the one stage; of two with a heading each, and values under `stages` too.

    Raises PipelineError with the problems of both.
    """
    found: list[Result] = []
    faults: list[PipelineError] = []
    for pipeline, document in stages:
        try:
            found.append(said(pipeline, document))
        except PipelineError as error:
            faults.append(error)
    if faults:
        lines = dict.fromkeys(line for error in faults for line in error.lines)
        raise PipelineError([problem for error in faults for problem in error.problems], [*lines])
    if len(found) == 1:
        return found[0]
    texts = [f"stage {number} of {len(found)}\n{one}" for number, one in enumerate(found, 1)]
    return Result("\n\n".join(texts), {**found[-1].values, "stages": [one.values for one in found]})


def _check(file: Source, pipeline: Pipeline, document: Document) -> Result:
    with located(document):
        sound = checked(pipeline)
        space = space_lines(pipeline, document, sound.info)
    info, image, graph, facts = sound.info, sound.image, sound.graph, sound.facts
    from medfuse.runs.doubts import network_doubts

    assumed = (
        " (assumed: patch_size is planned from the data)" if pipeline.sample.patch_size == "auto" else ""
    )
    aux = pipeline.model.aux
    fixed = dict(zip(("main", *graph.aux), aux.fixed(len(graph.aux)) if aux else ()))
    weights = ", ".join(f"{name} {weight:g}" for name, weight in fixed.items())
    pretrained, later = weights_lines(pipeline, sound.origins), foretold(pipeline, graph, facts, info)
    later += teaching.foretold(pipeline, graph)
    from medfuse.data.plan import SMALLEST_BATCH
    from medfuse.runs.memory import memory_line, step_bytes

    doubts = [*network_doubts(pipeline, graph)]
    batch = SMALLEST_BATCH if pipeline.sample.batch_size == "auto" else pipeline.sample.batch_size
    assert facts.held is not None
    memory = f"{memory_line(facts.held, pipeline.train, batch)}{assumed}"
    data = f"{len(info.cases)} cases, channels {', '.join(info.channels)}, labels {', '.join(info.labels)}"
    lines = [
        f"{document.source}: {data}",
        *info.notes,
        *sound.doubts,
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
        memory,
        *later,
        *space,
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
        "step_bytes": step_bytes(facts.held, pipeline.train, half=pipeline.train.precision == "bf16"),
        "notes": [*info.notes, *sound.doubts, *pretrained, *facts.notes, *doubts, *later, *space],
    }
    return Result("\n".join(lines), said, page=lambda: _page(graph, lines), rows=graph.rows, found=graph)


def _page(graph: GraphPlan, lines: Sequence[str]) -> str:
    """The graph as a picture, above the table."""
    from html import escape

    from medfuse.report.graph import graph_svg
    from medfuse.runs.judging import graph_nodes

    picture = graph_svg(graph_nodes(graph)).decode()
    return f"{picture[picture.index('<svg') :]}<pre>{escape(chr(10).join(lines))}</pre>"


def _rates(pipeline: Pipeline, facts: VerifiedFacts) -> list[str]:
    """At what rate each part learns, where parts are told apart."""
    from medfuse.train.optimizer import peak_rate
    from medfuse.train.parts import rate_rows

    if not pipeline.train.parts:
        return []
    rows = rate_rows(pipeline.train.parts, facts.parameter_shapes, facts.depths, peak_rate(pipeline.train))
    return ["", aligned([("learning rates", "parameters", "factor", "peak rate"), *rows])]
