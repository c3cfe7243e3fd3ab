"""Trained networks from weights files and exported ones: what such a file says, written and read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import medfuse
from medfuse.core.document import Document
from medfuse.core.errors import CheckpointError, PipelineError
from medfuse.core.files import file_hash
from medfuse.infer.settings import InferSettings
from medfuse.model.graph import GraphPlan, plan_graph
from medfuse.model.settings import ModelSettings
from medfuse.pipeline import Pipeline, problems_of, resolved, watched_maps
from medfuse.trained.trained import Prepared, Trained

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from medfuse.data.plan import DataPlan
    from medfuse.model.segmenter import Segmenter

EXPORTED = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
"""The ending of what `medfuse export` writes, by format."""


def weights_facts(pipeline: Pipeline, plan: DataPlan) -> dict[str, Any]:
    """What inference needs beside the tensors: the model, its data plan, the settings of its windows."""
    values = resolved(pipeline)
    return {
        "medfuse": medfuse.__version__,
        "name": pipeline.name,
        "fold": pipeline.split.fold,
        "model": values["model"],
        "watched": [*watched_maps(pipeline)],
        "infer": values["infer"],
        "data": plan.to_json(),
    }


def load_trained(
    paths: Sequence[Path],
    *,
    device: str = "auto",
    settings: InferSettings | None = None,
    overrides: Iterable[str] = (),
    maps: Sequence[str] = (),
) -> Trained:
    """Load weights or exported files, which must be folds of one model. Raises CheckpointError.

    `maps` are names and globs of the maps that the networks must be able to hand out; layers that the graph
    does not tap are tapped for them. Raises MedfuseError for one that there is not.
    """
    from medfuse.core.device import settle

    where = _device(paths, device)
    settle(where)
    loaded = [_load(path, where, maps) for path in paths]
    plans = [one.plan for one in loaded]
    for path, plan in zip(paths, plans):
        if (plan.labels, plan.region_order, plan.channels, plan.spacing_mm, plan.patch_size) != (
            plans[0].labels,
            plans[0].region_order,
            plans[0].channels,
            plans[0].spacing_mm,
            plans[0].patch_size,
        ):
            raise CheckpointError(
                f"{path}: its labels, channels, spacing or patch size differ from those of {paths[0]}; "
                "average folds of one model only"
            )
    return Trained(
        tuple(one.network for one in loaded),
        tuple(file_hash(path) for path in paths),
        loaded[0].graph,
        plans[0],
        _overridden(settings or loaded[0].settings, overrides),
        where,
    )


@dataclass(frozen=True)
class _Loaded:
    """One file's network and what it says of it."""

    network: Segmenter | Callable[[Tensor], Tensor]
    graph: GraphPlan | None
    plan: DataPlan
    settings: InferSettings


def _load(path: Path, where: torch.device, maps: Sequence[str]) -> _Loaded:
    if path.suffix not in EXPORTED.values():
        return _from_weights(path, where, maps)
    if maps:
        raise CheckpointError(
            f"{path}: was exported, and hands out logits only; give the run, or its weights"
        )
    return _from_export(path, where)


def _from_weights(path: Path, where: torch.device, maps: Sequence[str]) -> _Loaded:
    from medfuse.model.segmenter import build_segmenter
    from medfuse.model.selection import tap_further
    from medfuse.model.weights import load_into, load_weights

    state, facts = load_weights(path)
    with _written_by_this_version(path, facts):
        plan, settings = _said(facts)
        model = ModelSettings.model_validate(facts["model"])
        watched = dict.fromkeys(facts.get("watched", ()), ())
        graph = plan_graph(model, plan.image, len(plan.classes), watched)
    graph = tap_further(graph, maps)
    network = build_segmenter(graph)
    if maps and (untrained := [name for name in network.state_dict() if name not in state]):
        raise CheckpointError(
            f"{path}: has no weights for {', '.join(untrained[:2])}, …, which {', '.join(maps)} would "
            "need; choose layers up to the deepest that the run tapped"
        )
    load_into(network, state, path)
    return _Loaded(network.to(where).eval(), graph, plan, settings)


def _from_export(path: Path, where: torch.device) -> _Loaded:
    """What `medfuse export` wrote, run by what its format is for; no plugin of its pipeline is needed."""
    network: Callable[[Tensor], Tensor]
    if path.suffix == EXPORTED["torch"]:
        from medfuse.model import program

        network, facts = program.load(path, where)
    elif path.suffix == EXPORTED["onnx"]:
        from medfuse.model import onnx

        facts = onnx.load_facts(path)
        network = Prepared(lambda example: onnx.runner(path, example, "auto"))
    else:
        from medfuse.model import openvino

        model, facts = openvino.load(path)
        network = Prepared(lambda example: openvino.runner(model, example, "auto"))
    with _written_by_this_version(path, facts):
        return _Loaded(network, None, *_said(facts))


def _said(facts: Mapping[str, Any]) -> tuple[DataPlan, InferSettings]:
    from medfuse.data.plan import DataPlan

    return DataPlan.from_json(facts["data"]), InferSettings.model_validate(facts["infer"])


@contextmanager
def _written_by_this_version(path: Path, facts: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: was not written by this version of medfuse ({error}); train again, or install "
            f"medfuse {facts.get('medfuse', 'of its time')}"
        ) from error


def _device(paths: Sequence[Path], wanted: str) -> torch.device:
    """The device asked for; for `auto` one that what was exported can run on."""
    from medfuse.core.device import pick_device

    endings = {path.suffix for path in paths}
    if wanted == "auto" and EXPORTED["openvino"] in endings:
        return pick_device("cpu")
    if wanted == "auto" and EXPORTED["onnx"] in endings:
        from medfuse.model.onnx import runs_on_cuda

        return pick_device("auto" if runs_on_cuda() else "cpu")
    return pick_device(wanted)


def _overridden(settings: InferSettings, overrides: Iterable[str]) -> InferSettings:
    from pydantic import ValidationError

    document = Document(settings.model_dump(mode="json", exclude_none=True), {}, {}, "--set")
    for override in overrides:
        document.override(override)
    try:
        return InferSettings.model_validate(document.data)
    except ValidationError as error:
        raise document.located(PipelineError(problems_of(error, InferSettings, document.data))) from None


def weights_file(path: Path, *, best: bool) -> Path:
    """The weights that a run folder or a path stands for."""
    if path.is_dir():
        path = path / f"weights_{'best' if best else 'last'}.safetensors"
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; give a run folder such as runs/liver, a .safetensors file, or what "
            "`medfuse export` wrote"
        )
    return path
