"""A pipeline held against its dataset and the meta device: what no training should begin with is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medfuse.api import DatasetInfo, ImageInfo, Origin
from medfuse.core.errors import DataError, PipelineError, Problem
from medfuse.core.imports import imported_at_once
from medfuse.data.plan import SMALLEST_BATCH, counted_inputs
from medfuse.model.plan import GraphPlan
from medfuse.pipeline import Pipeline, plan_network
from medfuse.runs.problems import dataset_problems, objective_problems, placed_split, setting_problems
from medfuse.runs.teacher import shown_alike
from medfuse.runs.teacher_check import teacher_problems
from medfuse.runs.two_stages import first_dataset, shown_values
from medfuse.runs.weights import advice, origins, scaling_problems
from medfuse.volumes.endings import is_picture

if TYPE_CHECKING:
    from medfuse.model.verify import Verified, VerifiedFacts

CHECK_PATCH = 64  # voxels per axis that are assumed where patch_size is left to the data


@dataclass(frozen=True)
class Checked:
    """What is known of a sound pipeline before any image is opened. `doubts`: of its split."""

    info: DatasetInfo
    image: ImageInfo
    graph: GraphPlan
    facts: VerifiedFacts
    origins: Mapping[str, Origin]
    doubts: tuple[str, ...]


def checked(
    pipeline: Pipeline,
    info: DatasetInfo | None = None,
    image: ImageInfo | None = None,
    verified: Verified | None = None,
) -> Checked:
    """Plan the graph of a pipeline and verify it on the meta device. Raises PipelineError with all problems.

    `info` is its dataset, where that was read; `image` what the network will be given, where that is known;
    `verified` knows graphs that were seen before.
    """
    problems: list[Problem] = []
    doubts: tuple[str, ...] = ()
    try:
        info = info or pipeline.data.read()
        if pipeline.first:
            first_dataset(pipeline, info)
    except DataError as error:
        problems += dataset_problems(pipeline, error)
    except PipelineError as error:
        problems += error.problems
    found: Mapping[str, Origin] = {}
    try:
        found = origins(pipeline)
    except PipelineError as error:
        problems += error.problems
    image = image or nominal_image(pipeline, info, found)
    try:
        graph = plan_network(pipeline, image, len(info.outputs) if info else 2)
        facts = _verified(pipeline, graph, verified) if not problems else None
        problems += setting_problems(pipeline, graph, facts, info, fresh=True)
        problems += scaling_problems(shown_alike(pipeline), found, info.channels if info else ())
        if info:
            doubts = _split_doubts(pipeline, info)
        if info and facts:
            problems += objective_problems(pipeline, graph, facts, info, all_losses=False)
            problems += teacher_problems(pipeline, graph, info)
    except PipelineError as error:
        problems += error.problems
    if problems:
        raise PipelineError([*dict.fromkeys(problems)])
    assert info is not None
    assert facts is not None
    return Checked(info, image, graph, facts, found, doubts)


def _verified(pipeline: Pipeline, graph: GraphPlan, verified: Verified | None) -> VerifiedFacts:
    with imported_at_once("torch"):
        from medfuse.model.verify import verify  # and torch, which a mistake in the file does not wait for
        from medfuse.train.parts import needs_depths

    batch = pipeline.sample.batch_size
    return (verified or verify)(
        graph,
        with_depths=needs_depths(pipeline.train.parts),
        batch=SMALLEST_BATCH if batch == "auto" else batch,
    )


def _split_doubts(pipeline: Pipeline, info: DatasetInfo) -> tuple[str, ...]:
    """What the split leaves out, where it can be told before label maps are opened."""
    from medfuse.data.doubts import split_doubts, unjudged_doubts
    from medfuse.data.split import given_splits

    if pipeline.split.stratify and pipeline.split.fold != "all":
        return ()
    split = placed_split(pipeline, info)
    given = given_splits(info, pipeline.split)
    return (*unjudged_doubts(split, given), *split_doubts(info, split))


def nominal_image(
    pipeline: Pipeline, info: DatasetInfo | None, found: Mapping[str, Origin] | None = None
) -> ImageInfo:
    """What the network will be given, as far as it is known before any image is opened.

    `found`: where the weights of its backbones come from, which may decide how images are scaled.
    """
    patch = pipeline.sample.patch_size
    pictures = info is not None and all(is_picture(case.images[0]) for case in info.cases)
    size = (CHECK_PATCH,) * (2 if pictures else 3) if patch == "auto" else patch
    pipeline = shown_alike(pipeline)
    spacing = pipeline.preprocess.spacing_mm
    spacing_mm = (1.0,) * 3 if spacing == "auto" else spacing
    channels = info.channels if info else ("",)
    shown = len(shown_values(pipeline, info)) if info else 0
    advised = advice(pipeline, found or {}, channels)
    scaled = advised.normalize if advised else pipeline.preprocess.normalize
    return ImageInfo(counted_inputs(channels, scaled) + shown, size, spacing_mm[: len(size)])
