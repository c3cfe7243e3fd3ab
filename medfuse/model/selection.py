"""Which maps of a graph somebody means: by name, by glob, and of layers that the graph does not tap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from medfuse.core.errors import MedfuseError, Path, Problem, ShapeError, did_you_mean
from medfuse.core.features import FeatureInfo
from medfuse.core.names import is_part, matches
from medfuse.model.blame import placed
from medfuse.model.offers import named
from medfuse.model.plan import IMAGE, BackbonePlan, GraphPlan

if TYPE_CHECKING:
    from medfuse.model.layers import Layer

MOST_NAMES = 20


def select(plan: GraphPlan, references: Sequence[str]) -> tuple[FeatureInfo, ...]:
    """The maps that names and globs stand for, each once. Raises MedfuseError for one that matches none."""
    if unknown := [reference for reference in references if not matching(plan, reference)]:
        raise MedfuseError(*(_unknown(plan, reference) for reference in unknown))
    return tuple({f.name: f for reference in references for f in matching(plan, reference)}.values())


def selection_problems(
    plan: GraphPlan, references: Sequence[str], path: Path, *, grids: bool = False
) -> list[Problem]:
    """What no map of the graph is named after, for references listed at `path` of the pipeline file.

    With `grids`, what is image-level is no such map.
    """
    problems = []
    for index, reference in enumerate(references):
        found = matching(plan, reference)
        if not found and not any(_made(plan, b, reference) for b in plan.backbones):
            problems.append(Problem((*path, index), _unknown(plan, reference)))
        elif grids and found and found[0].image_level:
            message = f"{found[0].name!r} says one thing of the whole image, and has no grid; name a map"
            problems.append(Problem((*path, index), message))
    return problems


def tap_further(plan: GraphPlan, references: Sequence[str]) -> GraphPlan:
    """The plan, with those layers of its backbones tapped too that a reference means and no map is.

    A glob that matches maps of the graph means these alone. Raises MedfuseError where nothing is meant.
    """
    unknown: list[str] = []
    for reference in references:
        if matching(plan, reference):
            continue
        found = {b.name: _made(plan, b, reference) or _untapped(plan, b, reference) for b in plan.backbones}
        if not any(found.values()):
            unknown.append(
                f"{_unknown(plan, reference)}; `medfuse taps FILE` lists every layer of a pipeline"
            )
        plan = _with_taps(plan, found)
    if unknown:
        raise MedfuseError(*unknown)
    return plan


def matching(plan: GraphPlan, reference: str) -> list[FeatureInfo]:
    """The maps that a name or a glob stands for; the image only by its name."""
    if reference in plan.features:
        return [plan.features[reference]]
    return named((f for name, f in plan.features.items() if name != IMAGE), reference)


def _made(plan: GraphPlan, backbone: BackbonePlan, reference: str) -> list[FeatureInfo]:
    """What a backbone's strategy makes besides of layers, and that a reference means by its very name."""
    if not reference.startswith(f"{backbone.name}.") or not is_part(reference):
        return []
    strategy, features = backbone.strategy, [f for _, f in _layers(plan, backbone)]
    try:
        chosen = [f for layer in strategy.layers for f in strategy.choose(layer, features)]
        further = strategy.further(chosen, lambda: backbone.backbone.build(plan.image), plan.image)
    except ShapeError:  # which is said where the strategy stands
        return []
    return [f for f in further if matches(f"{backbone.name}.{f.name}", reference)]


def _untapped(plan: GraphPlan, backbone: BackbonePlan, reference: str) -> list[FeatureInfo]:
    """Layers of a backbone, of any depth, that make maps and that a reference means: found by a trial."""
    if not fnmatchcase(backbone.name, reference.partition(".")[0]):
        return []
    path = reference.partition(".")[2]
    found = [f for layer, f in _layers(plan, backbone) if not layer.same_as or layer.name == path]
    meant = {f.name for f in named((f.in_graph(backbone.name) for f in found), reference)}
    return [f for f in found if f"{backbone.name}.{f.name}" in meant]


def _layers(plan: GraphPlan, backbone: BackbonePlan) -> list[tuple[Layer, FeatureInfo]]:
    """The layers of a backbone that make maps."""
    from medfuse.model.layers import find_layers

    with placed(("model", "backbones", backbone.name), backbone.backbone):
        layers = find_layers(
            lambda: backbone.backbone.build(plan.image),
            plan.image,
            partial=True,
            known=backbone.strategy.known_tokens(),
        )
    return [(layer, f) for layer in layers if layer.name and (f := layer.feature())]


def _with_taps(plan: GraphPlan, further: dict[str, list[FeatureInfo]]) -> GraphPlan:
    backbones, features = [], dict(plan.features)
    for b in plan.backbones:
        taps = {tap.name: tap for tap in (*b.taps, *further[b.name])}
        finest_first = tuple(sorted(taps.values(), key=lambda f: f.coarseness))
        backbones.append(replace(b, taps=finest_first))
        features |= {f.name: f for f in (tap.in_graph(b.name) for tap in further[b.name])}
    return replace(plan, backbones=tuple(backbones), features=features)


def _unknown(plan: GraphPlan, reference: str) -> str:
    names = [*plan.features]
    more = f", … {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    known = ", ".join(names[:MOST_NAMES]) + more
    return f"no feature map is named {reference!r}{did_you_mean(reference, names)} (there are: {known})"
