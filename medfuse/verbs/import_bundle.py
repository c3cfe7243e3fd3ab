"""`medfuse import-bundle`: a MONAI bundle as a run folder of medfuse."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.core.errors import CheckpointError, MedfuseError, OutputError
from medfuse.core.files import make_folder
from medfuse.core.json_text import shortened
from medfuse.core.lock import locked
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.core.text import typed
from medfuse.imports.archives import opened
from medfuse.imports.bundle import Bundle, is_of_bundle, last_layers, read_bundle, tensors_of
from medfuse.verbs.import_nnunet import WEIGHTS

if TYPE_CHECKING:
    from medfuse.data.plan import DataPlan


def import_bundle(
    source: Path,
    output: Path,
    *,
    config: str = "",
    weights: str = "",
    spacing_mm: tuple[float, float, float] | None = None,
    reporter: Reporter,
) -> Result:
    """The network of a bundle, in a folder or a zip file, as weights below `output`.

    Returns what was written and how to go on; what is done otherwise than there is said. Raises
    CheckpointError where the bundle holds what medfuse has not, and OutputError where weights are there.
    """
    with opened(source, is_of_bundle) as around:
        if own := of_medfuse(around):
            return _import_own(own, output)
    with read_bundle(source, config=config, weights=weights, spacing_mm=spacing_mm) as bundle:
        _refuse_strange_code(bundle)
        target = output / WEIGHTS
        with _held(output, target):
            _save(bundle, target)
        for note in bundle.notes:
            reporter.say(f"  {note}")
        plan, name, notes = bundle.plan, bundle.name, bundle.notes
    return _written(name, plan, target, output, notes)


def of_medfuse(folder: Path) -> Path | None:
    """The weights of a bundle that medfuse wrote, which is the run itself."""
    from medfuse.model.bundled import FACTS, MODEL

    inner = (folder, *sorted(path for path in folder.iterdir() if path.is_dir()))
    return next((one / MODEL for one in inner if (one / FACTS).is_file() and (one / MODEL).is_file()), None)


def _import_own(model: Path, output: Path) -> Result:
    """The weights as they were before they became a bundle, with all that is in their facts."""
    from medfuse.model.bundled import load_bundled
    from medfuse.model.weights import save_tensors
    from medfuse.trained.facts import plan_of, read_said

    state, facts = load_bundled(model)
    said = read_said(model, facts)
    plan, target = plan_of(model, said), output / WEIGHTS
    with _held(output, target):
        save_tensors(target, state, facts)
    return _written(said.name or model.parents[1].name, plan, target, output)


@contextmanager
def _held(output: Path, target: Path) -> Iterator[None]:
    """A folder for nobody else. Raises OutputError where weights are there already."""
    with locked(make_folder(output), instead="choose another --output"):
        if os.path.lexists(target):
            raise OutputError(f"{target}: is there already; choose another --output, or remove it")
        yield


def _written(name: str, plan: DataPlan, target: Path, output: Path, notes: Sequence[str] = ()) -> Result:
    outputs = plan.classes if plan.regions else plan.classes[1:]
    lines = [
        f"{name}: {shortened(', '.join(outputs), 200)} in {', '.join(plan.channels)}: {target}",
        f"new scans: medfuse infer {typed(output)} --input FOLDER --output FOLDER",
    ]
    values = {"model": name, "runs": [output], "labels": outputs, "channels": plan.channels, "notes": notes}
    return Result("\n".join(lines), values)


def _refuse_strange_code(bundle: Bundle) -> None:
    """Raises CheckpointError for a class that may do more with its arguments than compute."""
    from medfuse.model.settings import ModelSettings
    from medfuse.trained.trust import Trust

    model = {"backbones": {"encoder": bundle.backbone()}, "head": {"input": "image"}}
    Trust.of().check(bundle.folder / "configs", ModelSettings.model_validate(model), model)


def _save(bundle: Bundle, target: Path) -> None:
    """Its weights, which its own network has taken. Its output is the logits: the head hands them on."""
    import torch

    from medfuse.model.bounded import Bounded
    from medfuse.model.checkpoints import read_checkpoint
    from medfuse.model.graph import plan_graph
    from medfuse.model.segmenter import build_segmenter
    from medfuse.model.settings import ModelSettings
    from medfuse.model.weights import load_into, save_weights

    where = f"{bundle.folder / 'configs'}: network_def"
    tensors = tensors_of(bundle.weights, read_checkpoint(bundle.weights))
    classes = len(bundle.plan.classes)
    try:
        with Bounded(tensors.values()):
            layer = min(last_layers(bundle), key=lambda name: name.count("."))
            model: dict[str, Any] = {
                "backbones": {"encoder": bundle.backbone()},
                "head": {"input": f"encoder.{layer}"},
            }
            settings = ModelSettings.model_validate(model)
            graph = plan_graph(settings, bundle.plan.image, classes)
            channels = graph.features[graph.head].channels
            if channels != classes:
                raise CheckpointError(f"makes {channels} outputs, where {classes} classes are named")
            network = build_segmenter(graph)
    except MedfuseError as error:
        raise CheckpointError(f"{where}: {'; '.join(error.lines)}") from error
    except Exception as error:  # of MONAI's classes, whatever arguments a file gives them
        raise CheckpointError(f"{where}: cannot be made ({shortened(str(error), 200)})") from error
    handed_on = torch.eye(classes).reshape(classes, classes, *[1] * len(bundle.plan.patch_size))
    own = {f"backbones.encoder.backbone.{name}": tensor for name, tensor in tensors.items()}
    load_into(network, {**own, "head.weight": handed_on, "head.bias": torch.zeros(classes)}, bundle.weights)
    dumped = settings.model_dump(mode="json", exclude_none=True)
    save_weights(target, network, {**bundle.facts(dumped), "trained": {"bundle": bundle.name}})
