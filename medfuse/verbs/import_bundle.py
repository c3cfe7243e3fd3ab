"""`medfuse import-bundle`: a MONAI bundle as a run folder of medfuse."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from medfuse.core.errors import CheckpointError, MedfuseError, OutputError
from medfuse.core.files import make_folder
from medfuse.core.json_text import shortened
from medfuse.core.lock import locked
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.imports.bundle import Bundle, last_layers, read_bundle, tensors_of
from medfuse.verbs.import_nnunet import WEIGHTS


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
    with read_bundle(source, config=config, weights=weights, spacing_mm=spacing_mm) as bundle:
        _refuse_strange_code(bundle)
        target = output / WEIGHTS
        with locked(make_folder(output), instead="choose another --output"):
            if os.path.lexists(target):
                raise OutputError(f"{target}: is there already; choose another --output, or remove it")
            _save(bundle, target)
        for note in bundle.notes:
            reporter.say(f"  {note}")
        plan, name, notes = bundle.plan, bundle.name, bundle.notes
    outputs = plan.classes if plan.regions else plan.classes[1:]
    lines = [
        f"{name}: {shortened(', '.join(outputs), 200)} in {', '.join(plan.channels)}: {target}",
        f"new scans: medfuse infer {output} --input FOLDER --output FOLDER",
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
