"""What settings of a pipeline name and its dataset, its graph or its parameters do not have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from medfuse.api import DatasetInfo, ImageInfo, Split
from medfuse.core.errors import CheckpointError, DataError, PipelineError, Problem, did_you_mean
from medfuse.core.labels import map_values, united
from medfuse.infer.settings import PostprocessSettings
from medfuse.model.plan import GraphPlan
from medfuse.pipeline import Pipeline
from medfuse.runs.frozen_check import frozen_problems
from medfuse.trained.loading import weights_file

if TYPE_CHECKING:
    from medfuse.data.fingerprint import CaseFacts
    from medfuse.model.verify import VerifiedFacts


def placed_split(pipeline: Pipeline, info: DatasetInfo, facts: Sequence[CaseFacts] = ()) -> Split:
    """The cases that train and those that judge. Raises PipelineError at the setting that cannot be met."""
    from medfuse.data.split import choose_split

    try:
        return choose_split(info, pipeline.split, facts)
    except DataError as error:
        problems = []
        for line in error.lines:
            named = re.match(r"split\.(\w+)", line)
            path = ("split", named[1]) if named else ("split",)
            if pipeline.split.file and line.startswith(str(pipeline.split.file)):
                path = ("split", "file")
            problems.append(Problem(path, line.removeprefix(f"{'.'.join(path)} ")))
        raise PipelineError(problems) from None


def dataset_problems(pipeline: Pipeline, error: DataError) -> list[Problem]:
    """What a dataset refuses to be read for, each line at the setting that it quotes, or at `data.root`."""
    given = pipeline.data.model_dump(mode="json", exclude={"root"})

    def quoted(line: str) -> str:
        for key, value in given.items():
            texts = value if isinstance(value, list) else [value]
            if key in pipeline.data.model_fields_set and any(
                isinstance(t, str) and t and t in line for t in texts
            ):
                return key
        return "root"

    return [Problem(("data", quoted(line)), line) for line in error.lines]


def setting_problems(
    pipeline: Pipeline,
    graph: GraphPlan,
    facts: VerifiedFacts | None,
    info: DatasetInfo | None,
    *,
    fresh: bool,
) -> list[Problem]:
    """What settings name and is not there, as far as the network and the dataset are known.

    Weights to start from matter to a `fresh` run alone.
    """
    problems = (
        _report_problems(pipeline, graph)
        + _memory_problems(pipeline)
        + (_runtime_problems(pipeline) if fresh else [])
    )
    if facts:
        problems += _parameter_problems(pipeline, facts, fresh=fresh)
        problems += frozen_problems(pipeline, graph, facts)
    if info:
        problems += _pseudo_problems(pipeline, graph, info)
        problems += _postprocess_problems(pipeline.infer.postprocess, info)
        problems += _augment_problems(pipeline, graph.image, info)
    return problems


def objective_problems(
    pipeline: Pipeline, graph: GraphPlan, facts: VerifiedFacts, info: DatasetInfo, *, all_losses: bool
) -> list[Problem]:
    """What schedules and losses give that would silence a head or end training: all of them are tried out.

    Losses that come with medfuse are tried where `all_losses` are asked for.
    """
    from medfuse.train.budget import Budget
    from medfuse.train.held_losses import Targets, activation_problems, loss_problems
    from medfuse.train.held_schedules import schedule_problems

    aux, values = pipeline.model.aux, map_values(info.labels.values())
    ignored = None if info.ignore is None else len(values)
    regions = united(info.labels, info.region_order)
    targets = Targets(len(info.outputs), len(values), regions, ignored)
    size = graph.image.patch_size
    problems = loss_problems(pipeline.loss, targets, size, ("loss",), all_of_them=all_losses)
    if aux and aux.schedule:
        _, total = Budget.of(pipeline.train).schedule_step(0)
        problems += schedule_problems(aux.schedule, total, len(graph.aux), ("model", "aux", "schedule"))
    if aux and aux.loss:
        judged = [name for name in graph.aux if name in facts.sizes and name not in graph.presence]
        coarsest = min((facts.sizes[name] for name in judged), default=size)
        path = ("model", "aux", "loss")
        problems += loss_problems(aux.loss, targets, coarsest, path, all_of_them=all_losses)
    for a in graph.activations:
        if all_losses or not a.loss.__module__.startswith("medfuse."):
            problems += activation_problems(a.loss, a.maps, ("model", "activation_losses", a.name))
    return problems


def _runtime_problems(pipeline: Pipeline) -> list[Problem]:
    """A runtime that only weights which passed a gate can have, of a run that has no weights yet."""
    if pipeline.infer.runtime is None:
        return []
    from torch import nn

    from medfuse.model.gate import NoGateError

    try:
        pipeline.infer.runtime.refuse(nn.Module())
    except NoGateError:
        what = "int8 is judged of weights, and this run has none yet; leave it out, train, and then run"
        return [Problem(("infer", "runtime"), f"{what} `medfuse quantize RUN`")]
    except Exception:  # of a runtime that wants to see a real network, as it will
        pass
    return []


def _memory_problems(pipeline: Pipeline) -> list[Problem]:
    parts, batch = pipeline.train.accumulate, pipeline.sample.batch_size
    if parts == "auto" or batch == "auto" or parts <= batch:
        return []
    return [
        Problem(
            ("train", "accumulate"),
            f"a batch of {batch} patches has no {parts} parts; give {batch} at most, or a larger "
            "sample.batch_size, which is that of the whole step",
        )
    ]


def _pseudo_problems(pipeline: Pipeline, graph: GraphPlan, info: DatasetInfo) -> list[Problem]:
    """What `train.pseudo_labels` names and is not there."""
    from medfuse.train.pseudo import head_problems, unlabelled_cases

    settings, path = pipeline.train.pseudo_labels, ("train", "pseudo_labels")
    if settings is None:
        return []
    problems = head_problems(settings.heads, graph.aux, graph.presence)
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


def _augment_problems(pipeline: Pipeline, image: ImageInfo, info: DatasetInfo) -> list[Problem]:
    """What further augmentations do to a patch like `image` that would end or falsify training."""
    if not (pipeline.augment.plugins or pipeline.augment.monai):
        return []  # MONAI takes seconds to import
    from medfuse.data.further import augment_problems

    return augment_problems(pipeline.augment, image, len(map_values(info.labels.values())))


def _parameter_problems(pipeline: Pipeline, facts: VerifiedFacts, *, fresh: bool) -> list[Problem]:
    """What settings say of parameters and is not so."""
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
        *selection_problems(graph, settings.gradcam, ("report", "gradcam"), grids=True),
    ]


def _postprocess_problems(settings: PostprocessSettings | str, info: DatasetInfo) -> list[Problem]:
    """What `infer.postprocess` names and the dataset does not have."""
    if isinstance(settings, str):
        return []
    path = ("infer", "postprocess")
    names = [name for name in info.outputs if info.labels[name] != 0]
    problems = [
        Problem(path, f"there is no label {name!r}{did_you_mean(name, names)} ({', '.join(names)})")
        for name in settings.unknown(names)
    ]
    if settings.threshold and not info.region_order:
        problems.append(
            Problem((*path, "threshold"), "only regions have a threshold; these labels exclude each other")
        )
    return problems
