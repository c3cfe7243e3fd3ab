"""`medfuse check`: a pipeline file held against its dataset and the meta device, without opening an image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.api import DatasetInfo, ImageInfo
from medfuse.core.errors import CheckpointError, DataError, PipelineError, Problem
from medfuse.core.text import by
from medfuse.model.graph import GraphPlan
from medfuse.pipeline import Pipeline, load_pipeline, plan_network
from medfuse.trained import weights_file
from medfuse.verbs.postprocess import postprocess_problems

if TYPE_CHECKING:
    from medfuse.model.verify import VerifiedFacts

CHECK_PATCH = 64  # voxels per axis that `check` assumes where patch_size is left to the data


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
    image = nominal_image(pipeline, info)
    try:
        graph = plan_network(pipeline, image, len(info.outputs) if info else 2)
        problems += report_problems(pipeline, graph)
        facts = verify(graph) if not problems else None
        problems += parameter_problems(pipeline, facts, fresh=True) if facts else []
        if info:
            problems += pseudo_problems(pipeline, graph, info)
            problems += postprocess_problems(pipeline.infer.postprocess, info)
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
        f"patch {by(image.patch_size)}{assumed}",
        "",
        graph.table(),
        "",
        f"{facts.parameters:,} parameters; every declared shape agrees with the real one",
    ]
    return "\n".join(lines)


def pseudo_problems(pipeline: Pipeline, graph: GraphPlan, info: DatasetInfo) -> list[Problem]:
    """What `train.pseudo_labels` names and is not there."""
    from medfuse.train.pseudo import head_problems, unlabelled_cases

    settings, path = pipeline.train.pseudo_labels, ("train", "pseudo_labels")
    if settings is None:
        return []
    problems = head_problems(settings.heads, graph.aux)
    if info.region_order:
        problems.append(
            Problem(path, "pseudo-labels are classes that exclude each other, and these labels are regions")
        )
    try:
        unlabelled_cases(info, settings)
    except DataError as error:
        problems += [Problem((*path, "cases"), line) for line in error.lines]
    try:
        if settings.teacher != "self":
            weights_file(settings.teacher, best=False)
    except CheckpointError as error:
        problems += [Problem((*path, "teacher"), line) for line in error.lines]
    return problems


def parameter_problems(pipeline: Pipeline, facts: VerifiedFacts, *, fresh: bool) -> list[Problem]:
    """What settings say of parameters and is not so. Weights to start from matter to a `fresh` run alone."""
    from medfuse.model.transfer import transfer_problems
    from medfuse.train.parts import part_problems

    problems = part_problems(pipeline.train.parts, facts.parameter_shapes)
    return problems + (transfer_problems(pipeline.model, facts.parameter_shapes) if fresh else [])


def report_problems(pipeline: Pipeline, graph: GraphPlan) -> list[Problem]:
    """What the report is to show of the network and the graph does not have."""
    from medfuse.model.selection import selection_problems

    settings = pipeline.report
    return [
        *selection_problems(graph, settings.maps, ("report", "maps")),
        *selection_problems(graph, settings.gradcam, ("report", "gradcam")),
    ]


def nominal_image(pipeline: Pipeline, info: DatasetInfo | None) -> ImageInfo:
    """What the network will be given, as far as it is known before any image is opened."""
    patch = pipeline.sample.patch_size
    size = (CHECK_PATCH,) * 3 if patch == "auto" else patch
    spacing = pipeline.preprocess.spacing_mm
    spacing_mm = (1.0,) * 3 if spacing == "auto" else spacing
    return ImageInfo(len(info.channels) if info else 1, size, spacing_mm[: len(size)])
