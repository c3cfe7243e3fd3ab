"""`medfuse taps`: every layer of a pipeline's backbones, with what it makes and costs, and what is tapped."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse import registry
from medfuse.api import ImageInfo
from medfuse.core.document import Document
from medfuse.core.errors import DataError, MedfuseError, PipelineError, Problem, did_you_mean
from medfuse.core.result import Result
from medfuse.core.text import aligned, by
from medfuse.model.around import WITHIN
from medfuse.model.blame import placed
from medfuse.model.graph import plan_graph
from medfuse.model.plan import BackbonePlan
from medfuse.pipeline import Pipeline, load_stages
from medfuse.runs.checked import nominal_image
from medfuse.runs.run import located
from medfuse.runs.weights import origins
from medfuse.verbs.check import of_stages

if TYPE_CHECKING:
    from medfuse.model.layers import Layer

COLUMNS = ("layer", "type", "channels", "size", "stride", "parameters", "compute", "")


def taps_table(file: Path, overrides: Iterable[str] = (), *, backbone: str | None = None) -> Result:
    """The layers of one backbone, or of all. Reads the dataset's text files, opens no image.

    Where the graph has faults the layers are listed all the same, as a mistyped layer is one of the faults.
    Of a cascade those of both stages, or of those that have such a backbone.
    """
    stages = load_stages(file, overrides)
    if backbone is not None:
        stages = [one for one in stages if backbone in one[0].model.backbones] or stages[-1:]
    return of_stages(stages, lambda pipeline, document: _table(file, pipeline, document, backbone))


def _table(file: Path, pipeline: Pipeline, document: Document, backbone: str | None) -> Result:
    names = [*pipeline.model.backbones]
    if backbone is not None and backbone not in names:
        near = did_you_mean(backbone, names)
        raise MedfuseError(f"--backbone {backbone}: {file} has none of this name{near} ({', '.join(names)})")
    try:
        info = pipeline.data.read()
    except DataError as error:
        raise document.located(
            PipelineError([Problem(("data", "root"), line) for line in error.lines])
        ) from None
    with located(document):
        image = nominal_image(pipeline, info, origins(pipeline))
    planned: dict[str, BackbonePlan] = {}
    faults: list[str] = []
    try:
        planned = {b.name: b for b in plan_graph(pipeline.model, image, len(info.outputs)).backbones}
    except PipelineError as error:
        faults = ["", "Nothing is marked as tapped, as the graph has faults:", *document.located(error).lines]
    try:
        parts = [
            _part(pipeline, name, image, planned.get(name)) for name in names if backbone in (None, name)
        ]
    except PipelineError as error:
        raise document.located(error) from None
    values = {"file": file, "backbones": [part.values for part in parts], "faults": [*faults[2:]]}
    return Result("\n".join(["\n\n".join(parts), *faults]), values)


def _part(pipeline: Pipeline, name: str, image: ImageInfo, plan: BackbonePlan | None) -> Result:
    """One backbone: a heading, a row for each layer, and what the numbers are."""
    from medfuse.model.layers import find_layers, whole_layers

    plugin, strategy = pipeline.model.backbones[name], pipeline.model.taps.get(name)
    with placed(("model", "backbones", name), plugin):
        known = strategy.known_tokens() if strategy else None
        network, *found = find_layers(lambda: plugin.build(image), image, partial=True, known=known)
    tapped = {tap.name for tap in plan.taps} if plan else set()
    layers, inside = _handed_on([layer for layer in found if _is_shown(layer, tapped)])
    how = registry.name_of(strategy) if strategy else "forward_hook"
    heading = (
        f"{name}: {registry.name_of(plugin)} on a patch of {by(image.patch_size)}, {len(tapped)} of "
        f"{len(whole_layers(found))} layers tapped by {how}"
    )
    rows = [_row(layer, network.flops, _notes(layer, layers, tapped)) for layer in layers]
    facts = (
        f"{network.parameters:,} parameters; {network.flops / 1e9:.3g} GFLOP a patch, in convolutions and "
        "linear layers"
    )
    if inside:
        facts += f"; {inside} layers inside see slices or parts of the image, and cannot be tapped themselves"
    values = {
        "name": name,
        "plugin": registry.name_of(plugin),
        "patch_size": image.patch_size,
        "taps": how,
        "parameters": network.parameters,
        "flops": network.flops,
        "layers": [_layer(layer, notes, layer.name in tapped) for layer, (*_, notes) in zip(layers, rows)],
    }
    return Result("\n".join([heading, "", aligned([COLUMNS, *rows]), "", facts]), values)


def _layer(layer: Layer, notes: str, tapped: bool) -> dict[str, Any]:
    return {
        "name": layer.name,
        "type": layer.kind,
        "map": layer.map_size,
        "stride": layer.stride,
        "image_level": layer.image_level,
        "parameters": layer.parameters,
        "flops": layer.flops,
        "tapped": tapped,
        "notes": notes,
    }


def _is_shown(layer: Layer, tapped: Collection[str]) -> bool:
    """All but single calls and further paths, as those that nobody taps only repeat a layer."""
    return layer.name in tapped or not (layer.same_as or "#" in layer.name)


def _handed_on(layers: Sequence[Layer]) -> tuple[list[Layer], int]:
    """Of a network within another one, as in `slices` and `view`, the layers that are handed on, each with
    what the layer inside is and costs; and how many others there are inside.
    """
    if not any(layer.name == WITHIN for layer in layers):
        return list(layers), 0
    root = WITHIN.partition(".")[0]
    inside = {layer.name: layer for layer in layers if re.match(rf"{root}\b", layer.name)}
    shown, known = [], set()
    for layer in layers:
        if layer.name in inside:
            continue
        own = _inside(layer.name, inside)
        if own:
            known.add(own.name)
            layer = replace(layer, kind=own.kind, parameters=own.parameters, flops=own.flops)
        shown.append(layer)
    return shown, len(inside) - len(known)


def _inside(name: str, inside: Mapping[str, Layer]) -> Layer | None:
    """The layer that one is handed on from: at its path, or below the name of a view."""
    depth = WITHIN
    while depth in inside:
        for path in (name, name.partition(".")[2]):
            found = inside.get(f"{depth}.{path}") if path else None
            if found and not inside.get(f"{depth}.{WITHIN}"):
                return found
        depth = f"{depth}.{WITHIN}"
    return None


def _notes(layer: Layer, layers: Sequence[Layer], tapped: Collection[str]) -> str:
    notes = ["tapped"] if layer.name in tapped else []
    if layer.channels_last:
        notes.append("channels last")
    if layer.tokens:
        notes.append("windows" if layer.tokens.window else "tokens")
        notes += [f"{layer.tokens.prefix} in front"] if layer.tokens.prefix else []
    if layer.image_level:
        notes.append("one thing of the whole image: tapped where it is named")
    if layer.runs > 1 and "#" not in layer.name:
        notes.append(f"runs {layer.runs} times, the last counts; {layer.name}#1 is the first")
    elif not layer.runs and any(inner.runs for inner in layers if inner.name.startswith(f"{layer.name}.")):
        return ""  # a list of layers does not run itself, but they do
    elif layer.reason:
        notes.append(layer.reason.partition(";")[0])
    return ", ".join(notes)


def _row(layer: Layer, total: int, notes: str) -> tuple[str, ...]:
    channels, *size = layer.map_size or ("",)
    share = f"{layer.flops / total:.1%}" if layer.flops else ""
    parameters = f"{layer.parameters:,}" if layer.parameters else ""
    return (
        layer.name,
        layer.kind,
        str(channels),
        by(size),
        "whole image" if layer.image_level else by(layer.stride),
        parameters,
        share,
        notes,
    )
