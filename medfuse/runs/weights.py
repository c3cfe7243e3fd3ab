"""Weights that a run starts from: whence they are, under what licence, and how they want images scaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from yaml import YAMLError

from medfuse.api import Backbone, Origin
from medfuse.core.errors import PipelineError, PluginError, Problem
from medfuse.data.plan import Advice, is_ct
from medfuse.data.settings import WindowSettings, kind_of, scaling
from medfuse.model.blame import blame, placed
from medfuse.model.origin import said
from medfuse.pipeline import Pipeline
from medfuse.runs.records import read_mapping


def origins(pipeline: Pipeline) -> dict[str, Origin]:
    """Of each backbone that brings weights along. May ask a hub for metadata. Raises PipelineError."""
    found: dict[str, Origin] = {}
    problems: list[Problem] = []
    for name, backbone in pipeline.model.backbones.items():
        try:
            with placed(("model", "backbones", name), backbone):
                origin = backbone.origin()
                _ways(origin, backbone)
        except PipelineError as error:
            problems += error.problems
            continue
        if origin is not None:
            found[name] = origin
    if problems:
        raise PipelineError(problems)
    return found


def advice(pipeline: Pipeline, found: Mapping[str, Origin], channels: Sequence[str]) -> Advice | None:
    """What the first backbone that asks for a normalisation is given, where none is said."""
    if pipeline.preprocess.normalize != "auto":
        return None
    for name, origin in found.items():
        if ways := _fitting(origin, channels):
            return Advice(ways[0], f"as the weights of {name}, {origin.source}, were trained")
    return None


def scaling_problems(
    pipeline: Pipeline, found: Mapping[str, Origin], channels: Sequence[str]
) -> list[Problem]:
    """Where images would be scaled otherwise than for the weights of a backbone."""
    said = pipeline.preprocess.normalize
    advised = advice(pipeline, found, channels)
    used, whose = (advised.normalize, advised.reason) if advised else (said, "")
    problems = []
    for name, origin in found.items():
        ways = _ways(origin)
        if not ways or used == "auto" or any(_meets(used, way) for way in ways):
            continue
        ways = _fitting(origin, channels)
        wanted = " or ".join(str(way) for way in ways)
        what = f"the weights of {name}, {origin.source}, were trained on images scaled by {wanted}, "
        if advised:
            message = f"{what}and here `auto` is {used}, {whose}; one network cannot have both: remove one"
            problems.append(Problem(("model", "backbones", name), message))
        else:
            message = f"{what}not by {used}; write `normalize: {ways[0]}`, or leave it to auto"
            problems.append(Problem(("preprocess", "normalize"), message))
    return problems


def _ways(origin: Origin | None, backbone: Backbone | None = None) -> list[str | WindowSettings]:
    """The normalisations that weights were trained for. Raises PluginError for what is none."""
    ways = []
    for text in origin.normalize if origin else ():
        try:
            ways.append(scaling(text))
        except (ValueError, YAMLError) as error:
            whose = blame(backbone) if backbone else "a backbone"
            raise PluginError(
                f"{whose} says that its weights are for `normalize: {text}`, which there is not"
            ) from error
    return ways


def _fitting(origin: Origin, channels: Sequence[str]) -> list[str | WindowSettings]:
    """Those that suit the dataset: none in HU where no channel is CT, unless there is no other."""
    ways = _ways(origin)
    others = [way for way in ways if kind_of(way) not in ("ct", "window", "windows")]
    return ways if any(map(is_ct, channels)) or not others else others


def _meets(used: str | WindowSettings, wanted: str | WindowSettings) -> bool:
    """Whether it is that way, or windows of one's own where any will do."""
    return used == wanted or (wanted in ("window", "windows") and kind_of(used) == wanted)


def weights_lines(pipeline: Pipeline, found: Mapping[str, Origin]) -> list[str]:
    """Whence pretrained weights come and under what licence, in a line for each. May ask a hub."""
    from medfuse.model.hub import fetch

    lines = [f"{name} starts from {said(origin)}" for name, origin in found.items()]
    for name, settings in pipeline.model.transfer.items():
        if settings.hub:
            loaded = fetch(settings.hub, local_files_only=bool(settings.local_files_only))
            lines.append(f"{name} starts from {said(Origin(loaded.name, loaded.license))}")
    return lines


def recorded_weights(path: Path) -> list[str]:
    """The same of a run that has begun, from its transfer.json; none where it started from fresh ones."""
    if not path.exists():
        return []
    lines = []
    for name, given in read_mapping(path).items():
        for one, source in ((given.get("brought") or {}, "source"), (given, "hub")):
            if one.get(source):
                origin = Origin(str(one[source]), str(one.get("license", "")))
                lines.append(f"{name}: {said(origin)}, SHA-256 {one.get('sha256')}")
            elif source == "hub" and one.get("file"):
                lines.append(f"{name}: {one['file']}")
    return lines
