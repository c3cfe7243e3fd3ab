"""What stays frozen in a training, and what `check` says of it: what would be kept, or why nothing can be."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

from medfuse.api import DatasetInfo
from medfuse.core.errors import Problem
from medfuse.core.memory import bytes_text
from medfuse.core.text import by, listed
from medfuse.model.plan import GraphPlan
from medfuse.pipeline import Pipeline
from medfuse.train.settings import TrainSettings

if TYPE_CHECKING:
    from medfuse.model.frozen import Frozen
    from medfuse.model.verify import VerifiedFacts

VIEWS = 8
"""Of each patch, where a pipeline leaves them open and there is time for so many."""


def frozen_of(graph: GraphPlan, settings: TrainSettings, parameters: Mapping[str, bool]) -> Frozen:
    """What stays frozen to the end of training; `parameters`: name → whether it is built to learn."""
    from medfuse.model.frozen import frozen_maps
    from medfuse.train.parts import stays_frozen

    return frozen_maps(graph, parameters, stays_frozen(settings.parts, parameters).__contains__)


def frozen_problems(pipeline: Pipeline, graph: GraphPlan, facts: VerifiedFacts) -> list[Problem]:
    """Why maps cannot be kept, of what the pipeline says."""
    settings, path = pipeline.train, ("train", "frozen_maps")
    if settings.frozen_maps is None:
        return []
    problems = []
    if settings.guided:
        problems.append(
            Problem(
                path,
                "the network's own maps, as they are at each step, change patches (train.guided), so that "
                "none is seen twice; take out one of the two",
                at_key=True,
            )
        )
    frozen = frozen_of(graph, settings, facts.learning)
    if not frozen.maps:
        later = [glob for glob, part in settings.parts.items() if isinstance(part.freeze, int)]
        thawed = f"; {listed(later)} is frozen at first only, and thaws" if later else ""
        problems.append(
            Problem(
                path,
                f"no map stays as it is: {frozen.reason()}{thawed}; freeze a whole backbone, such as "
                f'`parts: {{"backbones.{graph.backbones[0].name}.*": {{freeze: always}}}}`, or take '
                "frozen_maps out",
                at_key=True,
            )
        )
    return problems


def foretold(pipeline: Pipeline, graph: GraphPlan, facts: VerifiedFacts, info: DatasetInfo) -> list[str]:
    """For `check`: what is frozen, what would be kept, how large about; nothing where it is off."""
    settings = pipeline.train.frozen_maps
    if settings is None:
        return []
    frozen = frozen_of(graph, pipeline.train, facts.learning)
    each_value = 2 if settings.precision == "fp16" else 4
    voxels = prod(graph.image.patch_size)
    total = voxels * (1 + 4 * graph.image.channels * frozen.needs_image)
    what = f"kept, in {settings.precision}," if settings.keep else "computed at each step (keep: false)"
    also = "label and image" if frozen.needs_image else "label"
    lines = [f"frozen for good: {listed(frozen.parts)}; of each patch is {what} besides its {also}:"]
    for name in frozen.maps:
        feature = graph.features[name]
        size = facts.sizes.get(name, feature.size(graph.image.patch_size))
        own = each_value * feature.channels * prod(size)
        lines.append(f"  {name}: {feature.channels} × {by(size)}, {bytes_text(own)}")
        total += own
    if settings.keep:
        views = VIEWS if settings.views == "auto" else settings.views
        cases = sum(case.label is not None for case in info.cases)
        patches = cases if settings.patches == "auto" else settings.patches
        of = "one patch of each labelled case" if settings.patches == "auto" else f"{patches} patches"
        lines.append(
            f"  about {bytes_text(total * views * patches)} for {of} in {views} views, before compression; "
            "`medfuse run` measures size and time before it begins"
        )
    return lines
