"""What a student learns from its teacher: probabilities, and which of its maps are drawn to which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from medfuse.api import ActivationLoss, FeatureInfo
from medfuse.model.plan import IMAGE, GraphPlan
from medfuse.pipeline import Pipeline
from medfuse.registry import ActivationLossField
from medfuse.runs.teacher import Teacher, TeacherRecord, read_teacher
from medfuse.trained.loading import load_trained
from medfuse.trained.trained import Trained

if TYPE_CHECKING:
    import torch

    from medfuse.data.plan import DataPlan
    from medfuse.train.settings import TeacherSettings
    from medfuse.train.teaching import Teaching

_ACTIVATION_LOSS: TypeAdapter[ActivationLoss] = TypeAdapter(ActivationLossField)


def teaching(
    pipeline: Pipeline, plan: DataPlan, graph: GraphPlan, device: torch.device
) -> tuple[Teaching, TeacherRecord] | None:
    """The teacher on the device of training, and a record of it; None where a pipeline has none."""
    from medfuse.core.layout import channels_last, lay_out
    from medfuse.train.teaching import Match, Teaching

    settings, teacher = pipeline.train.teacher, read_teacher(pipeline)
    if settings is None or teacher is None:
        return None
    pairs = {} if not settings.maps_weight else pairs_of(settings, graph, teacher.graph)
    trained = loaded(settings, teacher, str(device.type), maps=[*pairs.values()])
    network, theirs = trained.segmenter().to(device), trained.graph or teacher.graph
    axes = len(plan.patch_size) + 2
    lay_out(network, axes, channels_last(axes))
    matches = []
    for mine, its in pairs.items():
        loss, maps = pair_loss(graph.features[mine], theirs.features[its], settings.distance)
        matches.append(Match(mine, its, loss.build(maps)))
    record = TeacherRecord(
        run=str(teacher.weights.parent),
        sha256=trained.hashes[0],
        parameters=sum(p.numel() for p in network.parameters()),
        weight=settings.weight,
        temperature=settings.temperature,
        maps=dict(pairs),
        maps_weight=settings.maps_weight,
        distance=settings.distance,
    )
    made = Teaching(
        network,
        weight=settings.weight,
        temperature=settings.temperature,
        matches=matches,
        maps_weight=settings.maps_weight,
        regions=bool(plan.regions),
    )
    return made, record


def foretold(pipeline: Pipeline, graph: GraphPlan) -> list[str]:
    """For `check`: who teaches, and what; nothing without a teacher."""
    settings, teacher = pipeline.train.teacher, read_teacher(pipeline)
    if settings is None or teacher is None:
        return []
    pairs = pairs_of(settings, graph, teacher.graph)
    weight, each = settings.weight, settings.maps_weight
    probabilities = f"probabilities at temperature {settings.temperature:g} (weight {weight:g})"
    weighed = [probabilities] if weight else []
    weighed += [f"{mine} as its {its} (weight {each:g})" for mine, its in pairs.items() if each]
    lines = [f"taught by {teacher.weights.parent}: {', '.join(weighed) or 'nothing, as all weights are 0'}"]
    if settings.maps == "auto" and each and not pairs:
        lines.append("no map of it has a stride that one here has; name pairs by train.teacher.maps")
    return lines


def loaded(settings: TeacherSettings, teacher: Teacher, device: str, maps: Sequence[str] = ()) -> Trained:
    return load_trained([teacher.weights], device=device, maps=maps, trust=settings.trust or ())


def pairs_of(settings: TeacherSettings, graph: GraphPlan, teacher: GraphPlan) -> Mapping[str, str]:
    """The student's maps that are drawn to the teacher's: as the settings say, or a pair for each stride."""
    return matched(graph, teacher) if settings.maps == "auto" else settings.maps


def matched(student: GraphPlan, teacher: GraphPlan) -> dict[str, str]:
    """Of each stride that both have but the image's own: maps of one name, or the last ones of each.

    What comes last is nearest to the head. At the image's own stride the probabilities say it all.
    """
    from medfuse.model.still import untaught

    still = untaught(student)
    mine = _by_stride(f for f in student.features.values() if f.name.partition(".")[0] not in still)
    its = _by_stride(teacher.features.values())
    found = {}
    for stride, own in mine.items():
        if max(stride) == 1 or stride not in its:
            continue
        names = [f.name for f in its[stride]]
        same = [f.name for f in own if f.name in names]
        found[same[-1] if same else own[-1].name] = same[-1] if same else names[-1]
    return found


def _by_stride(features: Iterable[FeatureInfo]) -> dict[tuple[int, ...], list[FeatureInfo]]:
    found: dict[tuple[int, ...], list[FeatureInfo]] = {}
    for feature in features:
        if feature.name != IMAGE and not feature.image_level:
            found.setdefault(tuple(feature.stride), []).append(feature)
    return found


def pair_loss(
    student: FeatureInfo, teacher: FeatureInfo, distance: str
) -> tuple[ActivationLoss, tuple[FeatureInfo, FeatureInfo]]:
    """The loss of a pair, and the maps that it is planned and built with."""
    said = {"use": "feature_matching", "maps": [student.name, teacher.name], "weight": 1.0}
    return _ACTIVATION_LOSS.validate_python({**said, "distance": distance}), (student, teacher)
