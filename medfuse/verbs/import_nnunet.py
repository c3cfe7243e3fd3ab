"""`medfuse import-nnunet`: a model that nnU-Net trained as a run folder of medfuse."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from medfuse.core.errors import CheckpointError, MedfuseError, OutputError
from medfuse.core.files import make_folder
from medfuse.core.lock import locked
from medfuse.core.reporter import Reporter

WEIGHTS = "weights_last.safetensors"


def import_nnunet(
    folder: Path, output: Path, *, checkpoint: str = "checkpoint_final.pth", reporter: Reporter
) -> str:
    """Every fold of `folder` (nnUNetTrainer__…) that holds `checkpoint`, as weights below `output`.

    Returns what was written and how to go on. Raises CheckpointError where the network is another than
    medfuse has, and OutputError where weights are there already.
    """
    found = sorted(path.parent for path in folder.glob(f"fold_*/{checkpoint}"))
    if not found:
        raise CheckpointError(
            f"{folder}: holds no fold_…/{checkpoint}; give a folder nnUNetTrainer__…, or another --checkpoint"
        )
    targets = [output if len(found) == 1 else output / fold.name for fold in found]
    with locked(make_folder(output), instead="choose another --output"):
        if there := [target for target in targets if os.path.lexists(target / WEIGHTS)]:
            raise OutputError(
                f"{there[0] / WEIGHTS}: is there already; choose another --output, or remove it"
            )
        from medfuse.model.checkpoints import read_checkpoint

        for fold, target in zip(found, targets):
            _import_fold(folder, fold, read_checkpoint(fold / checkpoint), target / WEIGHTS)
            reporter.say(f"  {fold.name}: {target / WEIGHTS}")
    runs = " ".join(map(str, targets))
    lines = [
        f"{len(found)} of {folder.name}: {runs}",
        f"new scans:    medfuse infer {runs} --input FOLDER --output FOLDER",
        f"start from it: model.transfer: {{encoder: {{weights: {targets[0] / WEIGHTS}}}}}; decoded likewise",
        "nnU-Net resamples images by cubic splines, medfuse linearly, so results differ slightly",
    ]
    return "\n".join(lines)


def _import_fold(folder: Path, fold: Path, state: Any, path: Path) -> None:
    """One checkpoint as one weights file, which its own network has taken."""
    from torch import Tensor, device

    from medfuse.data.listing import is_whole
    from medfuse.imports.nnunet import read_plan
    from medfuse.imports.nnunet_files import read_state
    from medfuse.model.graph import plan_graph
    from medfuse.model.segmenter import build_segmenter
    from medfuse.model.weights import load_into, save_weights

    read, weights = read_state(state, fold)
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    imported = read_plan(folder, read.configuration)
    try:
        graph = plan_graph(imported.model, imported.plan.image, len(imported.plan.classes))
    except MedfuseError as error:
        raise CheckpointError(f"{folder / 'plans.json'}: {'; '.join(error.lines)}") from error
    with device("meta"):  # which takes no memory, whatever the plan says
        wanted = sum(p.numel() for p in build_segmenter(graph).parameters())
    if wanted > (held := sum(tensor.numel() for tensor in tensors.values())):
        raise CheckpointError(
            f"{folder / 'plans.json'}: its network has {wanted:,} parameters, {fold} at most {held:,}; give "
            "the plan that it was trained with"
        )
    network = build_segmenter(graph)
    load_into(network, imported.tensors(tensors), fold)
    number = fold.name.removeprefix("fold_")
    mirror = read.inference_allowed_mirroring_axes or ()
    which = int(number) if is_whole(number) else "all" if number == "all" else 0
    facts = imported.facts(folder.parent.name or folder.name, which, mirror)
    save_weights(path, network, {**facts, "trained": {"nnunet_epochs": read.current_epoch}})
