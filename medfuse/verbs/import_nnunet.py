"""`medfuse import-nnunet`: a model that nnU-Net trained as a run folder of medfuse."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from medfuse.core.errors import CheckpointError, MedfuseError, OutputError
from medfuse.core.files import make_folder
from medfuse.core.json_text import shortened
from medfuse.core.lock import locked
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.core.text import typed
from medfuse.imports.archives import opened

WEIGHTS = "weights_last.safetensors"
DEEPEST = 4  # folders around a model's: of results, dataset and trainer


def import_nnunet(
    source: Path,
    output: Path,
    *,
    checkpoint: str = "checkpoint_final.pth",
    configuration: str = "",
    before: Path | None = None,
    reporter: Reporter,
) -> Result:
    """Every fold of a model that holds `checkpoint`, as weights below `output`.

    source: a folder nnUNetTrainer__…, one around it, or a zip file of either. configuration: which model
    there, where there are several, such as 3d_fullres. before: the model of the first stage, where it is a
    cascade's second and that does not lie beside it. Returns what was written and how to go on. Raises
    CheckpointError where the network is another than medfuse has, and OutputError where weights are there
    already.
    """

    def needed(name: PurePosixPath) -> bool:
        return name.name in ("plans.json", "dataset.json", checkpoint)

    with opened(source, needed) as around:
        folder = _model_in(around, source, checkpoint, configuration)
        dataset = source.stem if folder == around != source else folder.parent.name or folder.name
        folds = sorted(path.parent for path in folder.glob(f"fold_*/{checkpoint}"))
        targets = [output if len(folds) == 1 else output / fold.name for fold in folds]
        with locked(make_folder(output), instead="choose another --output"):
            if there := [target for target in targets if os.path.lexists(target / WEIGHTS)]:
                raise OutputError(
                    f"{there[0] / WEIGHTS}: is there already; choose another --output, or remove it"
                )
            from medfuse.model.checkpoints import read_checkpoint

            if stage := _stage_before(folder, folds[0], read_checkpoint(folds[0] / checkpoint)):
                first = before or folder.with_name(f"{folder.name.rpartition('__')[0]}__{stage}")
                _import_first(first, folder, output, checkpoint, reporter)
            for fold, target in zip(folds, targets):
                state = read_checkpoint(fold / checkpoint)
                _import_fold(folder, fold, state, target / WEIGHTS, dataset)
                reporter.say(f"  {fold.name}: {target / WEIGHTS}")
        name, count = folder.name, len(folds)
    runs = " ".join(map(str, targets))
    lines = [
        f"{count} of {name}: {runs}",
        f"new scans:    medfuse infer {' '.join(map(typed, targets))} --input FOLDER --output FOLDER",
        f"start from it: model.transfer: {{encoder: {{weights: {targets[0] / WEIGHTS}}}}}; decoded likewise",
        "nnU-Net resamples images by cubic splines, medfuse linearly, so results differ slightly",
    ]
    return Result("\n".join(lines), {"model": name, "runs": targets, "notes": lines[3:]})


def _stage_before(folder: Path, fold: Path, state: Any) -> str:
    """The configuration of a cascade's first stage, where a model is its second; else empty."""
    from medfuse.imports.nnunet import read_plan
    from medfuse.imports.nnunet_files import read_state

    return read_plan(folder, read_state(state, fold)[0].configuration).before


def _import_first(first: Path, folder: Path, output: Path, checkpoint: str, reporter: Reporter) -> None:
    """The first stage of a cascade, into the folder where the second looks for it. Raises CheckpointError."""
    from medfuse.trained.loading import BEFORE

    if not first.exists():
        raise CheckpointError(
            f"{folder}: is the second stage of a cascade, and the first, {first.name}, is not beside it; "
            "name its folder by --before"
        )
    reporter.say(f"  the first stage, {first.name}:")
    import_nnunet(first, output / BEFORE, checkpoint=checkpoint, reporter=reporter)


def _model_in(around: Path, source: Path, checkpoint: str, configuration: str) -> Path:
    """The one model's folder in a folder. Raises CheckpointError where there is none, or more than one."""
    levels = ["/".join(["*"] * depth + ["fold_*", checkpoint]) for depth in range(DEEPEST)]
    found = sorted({path.parents[1] for level in levels for path in around.glob(level)})
    if not found:
        raise CheckpointError(
            f"{source}: holds no fold_…/{checkpoint}; give a folder nnUNetTrainer__…, or another --checkpoint"
        )
    chosen = [f for f in found if f.name.endswith(f"__{configuration}")] if configuration else found
    if len(chosen) != 1:
        names = shortened(", ".join(str(f.relative_to(around)) for f in found), 400)
        none = f"no model of configuration {configuration}" if configuration else "several models"
        raise CheckpointError(
            f"{source}: holds {none} ({names}); name one by --configuration, such as "
            f"{_configurations(found) or '3d_fullres'}, or give its folder"
        )
    return chosen[0]


def _configurations(models: Sequence[Path]) -> str:
    """What the names of models end with, such as 3d_fullres."""
    return " or ".join(dict.fromkeys(m.name.rpartition("__")[2] for m in models if "__" in m.name))


def _import_fold(folder: Path, fold: Path, state: Any, path: Path, name: str) -> None:
    """One checkpoint as one weights file of this name, which its own network has taken."""
    from torch import Tensor, device

    from medfuse.data.listing import is_whole
    from medfuse.imports.nnunet import read_plan
    from medfuse.imports.nnunet_files import read_state
    from medfuse.model.graph import plan_graph
    from medfuse.model.segmenter import build_segmenter
    from medfuse.model.weights import load_into, save_weights

    read, weights = read_state(state, fold)
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    imported = read_plan(folder, read.configuration, tensors)
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
    try:
        load_into(network, imported.tensors(tensors), fold)
    except CheckpointError as error:
        trainer = f" by {shortened(read.trainer_name)}, which may build" if read.trainer_name else ", of"
        raise CheckpointError(
            f"{fold}: was trained{trainer} another network than the {imported.network.kind} of plans.json: "
            f"{error.lines[0].removeprefix(f'{fold}: ')}"
        ) from error
    number = fold.name.removeprefix("fold_")
    mirror = read.inference_allowed_mirroring_axes or ()
    which = int(number) if is_whole(number) else "all" if number == "all" else 0
    facts = imported.facts(name, which, mirror)
    save_weights(path, network, {**facts, "trained": {"nnunet_epochs": read.current_epoch}})
