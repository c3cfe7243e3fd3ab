"""Trained networks from weights files and exported ones: what such a file says, written and read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import medfuse
from medfuse.core.document import Document
from medfuse.core.engine import Engine, Running
from medfuse.core.errors import CheckpointError, MedfuseError, PipelineError, reason
from medfuse.core.files import file_hash, no_file
from medfuse.core.json_text import shortened
from medfuse.core.text import typed
from medfuse.infer.settings import InferSettings
from medfuse.model.gate import lay_beside
from medfuse.model.graph import plan_graph
from medfuse.model.hub import (
    BUNDLED,
    BUNDLED_FACTS,
    DESCRIPTION,
    PREFIX,
    SHARED_WEIGHTS,
    fetch_shared,
)
from medfuse.model.plan import GraphPlan
from medfuse.model.settings import ModelSettings
from medfuse.pipeline import Pipeline, problems_of, resolved, watched_maps
from medfuse.trained.facts import REMEDY, Facts, read_facts
from medfuse.trained.trained import Prepared, Trained
from medfuse.trained.trust import Trust
from medfuse.trained.zipped import unzipped

if TYPE_CHECKING:
    import openvino
    import torch
    from torch import Tensor, nn

    from medfuse.data.plan import DataPlan
    from medfuse.quality.stored import StoredCalibration

_LAST = "weights_last.safetensors"

SHARED_INSIDE = ("model", "weights")
"""Where the weights lie in folders that `medfuse export` writes for containers."""

_SHARED = (
    (BUNDLED, BUNDLED_FACTS),
    (SHARED_WEIGHTS, DESCRIPTION),
    *((f"{inner}/{SHARED_WEIGHTS}", DESCRIPTION) for inner in SHARED_INSIDE),
)

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
    trust: str | Iterable[str] = (),
    own: ModelSettings | None = None,
    networks: bool = True,
) -> Trained:
    """Load weights or exported files, which must be folds of one model. Raises CheckpointError.

    Code that weights name is called where it is harmless, where `own`, the user's pipeline, or one that was
    run here names it, and where it is of a package in `trust`.

    `networks`: whether they are wanted. Whoever leads workers does without them, and so without torch, where
    the files tell what they are of by themselves; it is for nothing but that.

    `maps` are names and globs of the maps that the networks must be able to hand out; layers that the graph
    does not tap are tapped for them. Raises MedfuseError for one that there is not.
    """
    from medfuse.core.device import settle
    from medfuse.data.focus import loosest

    allowed, overrides = Trust.of(trust, own), tuple(overrides)
    where: Any = None  # nobody computes there where no network is
    loaded: list[_Loaded] = []
    if not networks and device in ("auto", "cpu"):
        loaded = _described(paths, allowed, lambda one: _overridden(settings or one, overrides))
    if not loaded:
        where = _device(paths, device)
        settle(where)
        loaded = [_load(path, where, maps, allowed) for path in paths]
    hashes = tuple(file_hash(path) for path in paths)
    for one, path, digest in zip(loaded, paths, hashes):
        if one.network is not None and not isinstance(one.network, Prepared):
            lay_beside(one.network, path, digest)
    plans = [one.plan for one in loaded]
    for path, plan in zip(paths, plans):
        if (plan.labels, plan.region_order, plan.channels, plan.spacing_mm, plan.patch_size, plan.before) != (
            plans[0].labels,
            plans[0].region_order,
            plans[0].channels,
            plans[0].spacing_mm,
            plans[0].patch_size,
            plans[0].before,
        ):
            raise CheckpointError(
                f"{path}: its labels, channels, spacing or patch size differ from those of {paths[0]}; "
                "average folds of one model only"
            )
    return Trained(
        tuple(one.network for one in loaded if one.network is not None),
        hashes,
        loaded[0].graph,
        replace(plans[0], focus=loosest([plan.focus for plan in plans])),
        _overridden(settings or loaded[0].settings, overrides),
        where,
        _stage_before(paths, plans, device=device, trust=trust) if plans[0].is_second else None,
        loaded[0].name,
        _calibration(paths, hashes, loaded),
    )


def _calibration(
    paths: Sequence[Path], hashes: Sequence[str], loaded: Sequence[_Loaded]
) -> StoredCalibration | None:
    """What the cross-validation of these networks told, where all are of one. Raises CheckpointError.

    Of the one that all cases trained the others' is the best that there is.
    """
    from medfuse.quality.stored import NAME, read_calibration

    first = loaded[0].quality
    if first is not None and all(one.quality == first for one in loaded):
        return first
    folders = {path.absolute().parent.parent for path in paths}
    if len(folders) != 1 or not (file := folders.pop() / NAME).is_file():
        return None
    found = read_calibration(file)
    return found if all(one.of_all for one in loaded) or found.is_of(hashes) else None


BEFORE = "before"
"""The folder, in a run or around its folds, that holds the run whose label maps it is shown."""


def _stage_before(
    paths: Sequence[Path], plans: Sequence[DataPlan], *, device: str, trust: str | Iterable[str]
) -> Trained:
    """The first stage of the cascade that `paths` are the second of: those of all of them together, where
    each has its own. Raises CheckpointError, also for one that is another than their plans say."""
    found: list[Path] = []
    for path, plan in zip(paths, plans):
        own = first_stage_weights(path)
        if plan.focus and plan.focus.weights and {*plan.focus.weights} != {*map(file_hash, own)}:
            raise CheckpointError(
                f"{path}: is the second stage of a cascade, and {', '.join(map(str, own))} are not those of "
                "its first, as it was trained after; copy the whole run folder"
            )
        found += own
    before = load_trained([*dict.fromkeys(found)], device=device, trust=trust)
    faults = []
    if before.plan.channels != plans[0].channels:
        faults.append(f"channels {', '.join(before.plan.channels)} for {', '.join(plans[0].channels)}")
    if lost := [str(value) for value in plans[0].before if value not in before.plan.values]:
        faults.append(f"no label of the value {', '.join(lost)}, which it is shown")
    if faults:
        raise CheckpointError(
            f"{found[0]}: is not the first stage of {paths[0]}: it has {' and '.join(faults)}; copy the "
            "whole run folder"
        )
    return before


def first_stage_weights(path: Path) -> list[Path]:
    """Those of the first stage of the cascade that the weights `path` are of. Raises CheckpointError."""
    for folder in (path.parent / BEFORE, path.parent.parent / BEFORE):
        if folder == path.parent:  # which is no stage before itself
            continue
        if found := [*folder.glob(_LAST), *sorted(folder.glob(f"fold_*/{_LAST}"))]:
            return found
    raise CheckpointError(
        f"{path}: is the second stage of a cascade, and {path.parent / BEFORE} holds no {_LAST} of the "
        "first; copy the whole run folder"
    )


@dataclass(frozen=True)
class _Loaded:
    """One file's network and what it says of it."""

    network: nn.Module | Prepared | None
    graph: GraphPlan | None
    plan: DataPlan
    settings: InferSettings
    name: str
    of_all: bool = False
    quality: StoredCalibration | None = None


def _described(
    paths: Sequence[Path], trust: Trust, settled: Callable[[InferSettings], InferSettings]
) -> list[_Loaded]:
    """What files say, without their networks; nothing where that is not all there is to know of some.

    settled: what their settings become in the end.
    """
    from medfuse.model.plain_weights import facts_of

    found = []
    for path in paths:
        if path.suffix != ".safetensors" or (said := facts_of(path)) is None:
            return []
        facts = read_facts(path, said)
        trust.check(path, facts.model, facts.said)
        if facts.plan.is_second or settled(facts.settings).compare_heads:
            return []
        found.append(_Loaded(None, None, facts.plan, facts.settings, facts.name, facts.fold == "all"))
    return found


def _load(path: Path, where: torch.device, maps: Sequence[str], trust: Trust) -> _Loaded:
    if path.suffix not in EXPORTED.values():
        return _from_weights(path, where, maps, trust)
    if maps:
        raise CheckpointError(
            f"{path}: was exported, and hands out logits only; give the run, or its weights"
        )
    return _from_export(path, where)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a weights file, or of a bundle that medfuse wrote. Raises CheckpointError."""
    from medfuse.model.bundled import is_bundled, load_bundled
    from medfuse.model.weights import load_weights

    return load_bundled(path) if is_bundled(path) else load_weights(path)


def graph_of(path: Path, trust: str | Iterable[str] = ()) -> GraphPlan:
    """The graph of a weights file, without its network. Raises CheckpointError."""
    state, said = read_weights(path)
    return _planned(path, read_facts(path, said), state, Trust.of(trust))


def _planned(path: Path, facts: Facts, state: Mapping[str, Tensor], trust: Trust) -> GraphPlan:
    """The graph that a weights file describes, planned within limits. Raises CheckpointError."""
    from medfuse.model.bounded import Bounded

    trust.check(path, facts.model, facts.said)
    with _named(path), Bounded(state.values()):
        return plan_graph(
            facts.model, facts.plan.image, len(facts.plan.classes), dict.fromkeys(facts.watched, ())
        )


def _from_weights(path: Path, where: torch.device, maps: Sequence[str], trust: Trust) -> _Loaded:
    from medfuse.core.merged import merge
    from medfuse.model.bounded import Bounded
    from medfuse.model.segmenter import build_segmenter
    from medfuse.model.selection import tap_further
    from medfuse.model.weights import load_into

    state, said = read_weights(path)
    facts = read_facts(path, said)
    graph = tap_further(_planned(path, facts, state, trust), maps)
    with _named(path), Bounded(state.values()):
        network = build_segmenter(graph)
    if maps and (untrained := [name for name in network.state_dict() if name not in state]):
        raise CheckpointError(
            f"{path}: has no weights for {', '.join(untrained[:2])}, …, which {', '.join(maps)} would "
            "need; choose layers up to the deepest that the run tapped"
        )
    load_into(network, state, path)
    merge(network)
    network = network.to(where).eval()
    return _Loaded(network, graph, facts.plan, facts.settings, facts.name, facts.fold == "all", facts.quality)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What is raised while a file's network is made is said of that file, whoever raised it."""
    try:
        yield
    except MedfuseError as error:
        first, *others = error.lines
        more = f" (and {len(others)} more)" if others else ""
        raise CheckpointError(f"{path}: {first.removeprefix(f'{path}: ')}{more}; {REMEDY}") from error
    except Exception as error:  # of what the file chose to be made
        raise CheckpointError(
            f"{path}: its network cannot be made ({shortened(reason(error), 200)}); {REMEDY}"
        ) from error


def _from_export(path: Path, where: torch.device) -> _Loaded:
    """What `medfuse export` wrote, run by what its format is for; no plugin of its pipeline is needed."""
    network: nn.Module | Prepared
    if path.suffix == EXPORTED["torch"]:
        from medfuse.model import program

        network, facts = program.load(path, where)
    elif path.suffix == EXPORTED["onnx"]:
        from medfuse.model import onnx

        facts = onnx.load_facts(path)
        network = Prepared(partial(_by_onnxruntime, path))
    else:
        from medfuse.model import openvino

        model, facts = openvino.load(path)
        network = Prepared(partial(_by_openvino, model))
    read = read_facts(path, facts)
    return _Loaded(network, None, read.plan, read.settings, read.name, quality=read.quality)


def by_onnxruntime(path: Path) -> Prepared:
    """The network of an exported .onnx as ONNX Runtime runs it on a CPU."""
    return Prepared(partial(_by_onnxruntime, path))


def _by_onnxruntime(path: Path, example: Tensor, kept: Engine | None) -> Running:
    from medfuse.model import onnx
    from medfuse.model.engines import whole_engine

    run = onnx.runner(path, example, "auto")
    return Running(run, **whole_engine({"runtime": "onnxruntime", **run.engine}, example.device))


def _by_openvino(model: openvino.Model, example: Tensor, kept: Engine | None) -> Running:
    """In the precision of before, if it has one that this processor has units for."""
    from medfuse.core.device import half_precisions
    from medfuse.model import openvino
    from medfuse.model.engines import whole_engine

    known = kept.get("precision") if kept and kept.get("runtime") == "openvino" else None
    possible = ("fp32", *half_precisions(example.device))
    run = openvino.runner(model, example, str(known) if known in possible else "auto")
    return Running(run, **whole_engine({"runtime": "openvino", **run.engine}, example.device))


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


def _run_in(folder: Path) -> Path:
    """The one run in a folder of folds that has no weights of its own. Raises CheckpointError for several."""
    runs = sorted(path.parent for path in folder.glob(f"fold_*/{_LAST}"))
    if not runs or any(folder.glob("weights_*.safetensors")):
        return folder
    if len(runs) > 1:
        raise CheckpointError(
            f"{folder}: holds {', '.join(run.name for run in runs)}; give one, as {runs[0]}"
        )
    return runs[0]


def shared_weights(folder: Path) -> Path | None:
    """Where the weights lie in a folder that `medfuse export` wrote, or a copy of one; None for any other."""
    return next((folder / name for name, mark in _SHARED if _are_files(folder, name, mark)), None)


def _are_files(folder: Path, *names: str) -> bool:
    return all((folder / name).is_file() for name in names)


def weights_file(path: Path, *, best: bool) -> Path:
    """The weights that a run folder or a path stands for; a folder around one run alone stands for that.

    `hub:OWNER/NAME` stands for those of a repository of huggingface.co, which are fetched.
    """
    if str(path).startswith(PREFIX):
        return fetch_shared(path.as_posix())
    if path.suffix.lower() == ".zip" and path.is_file():
        path = unzipped(path, _SHARED)
    if path.is_dir():
        if shared := shared_weights(path):
            return shared
        if (path / "configs" / "metadata.json").is_file():
            raise CheckpointError(
                f"{path}: is a MONAI bundle of others; run `medfuse import-bundle {typed(path)} "
                "-o runs/NAME` first, and give that run"
            )
        path = _run_in(path) / f"weights_{'best' if best else 'last'}.safetensors"
    if kind := no_file(path):
        raise CheckpointError(f"{path}: is {kind}, no file of weights; name the file itself")
    if best and not path.is_file() and path.with_name(_LAST).is_file():
        raise CheckpointError(
            f"{path}: no such file, as no held-out case was looked at in training, which chooses the best "
            "weights; leave out --best"
        )
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; give a run folder such as runs/liver, a .safetensors file, or what "
            "`medfuse export` wrote"
        )
    return path
