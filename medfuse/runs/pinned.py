"""What a run fixes as it begins, so that carrying on and inferring need no hub: networks and file names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from medfuse.api import Backbone
from medfuse.core.errors import CheckpointError, PipelineError, PluginError, Problem
from medfuse.core.json_text import read_json, shortened, validated
from medfuse.model.blame import placed
from medfuse.pipeline import Pipeline
from medfuse.registry import BackboneField, as_mapping, blame
from medfuse.trained.facts import refuse_extremes

_BACKBONE: TypeAdapter[Backbone] = TypeAdapter(BackboneField)
_REMEDY = "put the file back as it was, or train this run anew with --retrain"


class Pins(BaseModel):
    """pinned.json: backbones that need nothing but themselves, and names on a hub with their revision.

    Both by their names in the pipeline, and only where they differ from what it says.
    """

    model_config = ConfigDict(frozen=True)

    backbones: dict[str, dict[str, Any]] = {}
    hub: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self.backbones or self.hub)


def pin(pipeline: Pipeline) -> Pins:
    """What a training that starts fixes; it may ask a hub. Raises PipelineError."""
    backbones = {}
    for name, backbone in pipeline.model.backbones.items():
        with placed(("model", "backbones", name), backbone):
            pinned = backbone.pinned()
            if pinned != backbone:
                backbones[name] = _plain(pinned)
    return Pins(backbones=backbones, hub=_hub_names(pipeline))


def read_pins(path: Path) -> Pins:
    """Those of a run that goes on; none where it fixed nothing. Raises CheckpointError."""
    if not path.exists():
        return Pins()
    value = read_json(path, raises=CheckpointError, remedy=_REMEDY)
    return validated(Pins, value, str(path), raises=CheckpointError, remedy=_REMEDY)


def with_pins(pipeline: Pipeline, pins: Pins) -> Pipeline:
    """The pipeline with what is fixed in place of what its file says. Raises CheckpointError."""
    if not pins:
        return pipeline
    model = pipeline.model
    backbones = {**model.backbones, **{n: _backbone(n, said) for n, said in pins.backbones.items()}}
    named = {
        name: model.transfer[name].model_copy(update={"hub": hub})
        for name, hub in pins.hub.items()
        if name in model.transfer
    }
    updated = {"backbones": backbones, "transfer": {**model.transfer, **named}}
    return pipeline.model_copy(update={"model": model.model_copy(update=updated)})


def _plain(backbone: Backbone) -> dict[str, Any]:
    """A pinned backbone as JSON, which must read back, and be no more than a file of weights may say."""
    said = as_mapping(backbone)
    refuse_extremes(f"{blame(backbone)}: what it is pinned to", said)
    if _backbone("", said) != backbone:
        raise PluginError(f"{blame(backbone)}: what it is pinned to does not read back as the same")
    return said


def _backbone(name: str, said: Mapping[str, Any]) -> Backbone:
    try:
        return _BACKBONE.validate_python(dict(said))
    except ValidationError as error:
        first = shortened(str(error.errors()[0]["msg"]), 200)
        raise CheckpointError(f"pinned.json: backbones.{name}: {first}; {_REMEDY}") from error


def _hub_names(pipeline: Pipeline) -> dict[str, str]:
    """Those of a branch, a tag or nothing, as the commit that they stand for now. Raises PipelineError."""
    from medfuse.model.hub import fetch, is_fixed

    names, problems = {}, []
    for name, settings in pipeline.model.transfer.items():
        known = name in {*pipeline.model.backbones, *pipeline.model.fusion}  # or it is said elsewhere
        if not settings.hub or not known or is_fixed(settings.hub):
            continue
        try:
            names[name] = fetch(settings.hub, local_files_only=bool(settings.local_files_only)).name
        except CheckpointError as error:
            problems += [Problem(("model", "transfer", name, "hub"), line) for line in error.lines]
    if problems:
        raise PipelineError(problems)
    return names
