"""Trained networks with all that inference needs, from weights files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import medfuse
from medfuse import registry
from medfuse.api import Case, Runtime
from medfuse.core.document import Document
from medfuse.core.errors import CheckpointError, PipelineError
from medfuse.core.files import file_hash
from medfuse.core.reporter import Advance, Reporter
from medfuse.infer.settings import InferSettings
from medfuse.model.graph import GraphPlan, plan_graph
from medfuse.model.settings import ModelSettings
from medfuse.pipeline import Pipeline, problems_of, resolved, watched_maps

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from medfuse.data.plan import DataPlan
    from medfuse.infer.folder import Progress
    from medfuse.model.segmenter import Segmenter


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


@dataclass(frozen=True)
class Trained:
    """Trained networks (one, or the folds of one model) with all that inference needs."""

    networks: tuple[Segmenter, ...]
    hashes: tuple[str, ...]
    graph: GraphPlan
    plan: DataPlan
    settings: InferSettings
    device: torch.device

    def infer(self, cases: Sequence[Case], output: Path, reporter: Reporter) -> Any:
        """Label maps of `cases` into `output`. Returns what became of each (infer.folder.Outcome)."""
        from medfuse.data.prepare import Preprocessor
        from medfuse.infer.folder import Recipe, infer_cases

        runtime = self.settings.runtime or registry.get(Runtime.group, "torch")()
        assert isinstance(runtime, Runtime)
        plan = self.plan
        recipe = Recipe(self.hashes, plan.labels, plan.patch_size, self.settings, plan.region_order)
        with reporter.track(f"predicting {len(cases)} cases", 100 * len(cases)) as advance:
            return infer_cases(
                cases,
                prepare=Preprocessor(self.plan).prepare,
                networks=[_Prepared(runtime, network) for network in self.networks],
                recipe=recipe,
                output=output,
                device=self.device,
                progress=case_progress(reporter, advance),
            )


def case_progress(reporter: Reporter, advance: Advance) -> Callable[[Progress], None]:
    """Moves a bar of 100 units a case, and names those that fail."""

    def progress(now: Progress) -> None:
        part = now.windows_done / now.windows if now.windows else float(now.state != "predicting")
        advance(int(100 * (now.number - 1 + part)), now.case)
        if now.state == "failed":
            reporter.say(f"{now.case}: failed: {now.reason}")

    return progress


class _Prepared:
    """A network that its runtime prepares when it sees the first real windows."""

    def __init__(self, runtime: Runtime, model: nn.Module) -> None:
        self._runtime, self._model = runtime, model
        self._run: Callable[[Tensor], Tensor] | None = None

    def __call__(self, windows: Tensor) -> Tensor:
        if self._run is None:
            self._run = self._runtime.prepare(self._model, windows)
        return self._run(windows)


def load_trained(
    paths: Sequence[Path],
    *,
    device: str = "auto",
    settings: InferSettings | None = None,
    overrides: Iterable[str] = (),
    maps: Sequence[str] = (),
) -> Trained:
    """Load weights files, which must be folds of one model. Raises CheckpointError.

    `maps` are names and globs of the maps that the networks must be able to hand out; layers that the graph
    does not tap are tapped for them. Raises MedfuseError for one that there is not.
    """
    from medfuse.core.device import pick_device, settle
    from medfuse.data.plan import DataPlan
    from medfuse.model.segmenter import build_segmenter
    from medfuse.model.selection import tap_further
    from medfuse.model.weights import load_into, load_weights

    where = pick_device(device)
    settle(where)
    networks, graphs, plans = [], [], []
    for path in paths:
        state, facts = load_weights(path)
        try:
            plan = DataPlan.from_json(facts["data"])
            model = ModelSettings.model_validate(facts["model"])
            watched = dict.fromkeys(facts.get("watched", ()), ())
            graph = plan_graph(model, plan.image, len(plan.classes), watched)
            own = InferSettings.model_validate(facts["infer"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: was not written by this version of medfuse ({error}); train again, or install "
                f"medfuse {facts.get('medfuse', 'of its time')}"
            ) from error
        graph = tap_further(graph, maps)
        network = build_segmenter(graph)
        if maps and (untrained := [name for name in network.state_dict() if name not in state]):
            raise CheckpointError(
                f"{path}: has no weights for {', '.join(untrained[:2])}, …, which {', '.join(maps)} would "
                "need; choose layers up to the deepest that the run tapped"
            )
        load_into(network, state, path)
        networks.append(network.to(where).eval())
        graphs.append(graph)
        plans.append(plan)
        settings = settings or own
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
    assert settings is not None, "there is at least one path"
    return Trained(
        tuple(networks),
        tuple(file_hash(path) for path in paths),
        graphs[0],
        plans[0],
        _overridden(settings, overrides),
        where,
    )


def _overridden(settings: InferSettings, overrides: Iterable[str]) -> InferSettings:
    from pydantic import ValidationError

    document = Document(settings.model_dump(mode="json", exclude_none=True), {}, {}, "--set")
    for override in overrides:
        document.override(override)
    try:
        return InferSettings.model_validate(document.data)
    except ValidationError as error:
        raise document.located(PipelineError(list(problems_of(error, InferSettings)))) from None


def weights_file(path: Path, *, best: bool) -> Path:
    """The weights that a run folder or a path stands for."""
    if path.is_dir():
        path = path / f"weights_{'best' if best else 'last'}.safetensors"
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; give a run folder such as runs/liver, or a .safetensors file"
        )
    return path
