"""What a run folder says of its run: its pipeline, every resolved value, all it takes to do it again."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import medfuse
from medfuse import registry
from medfuse.core.device import Precision, processor
from medfuse.core.errors import MedfuseError
from medfuse.core.files import make_folder, write_json
from medfuse.pipeline import Pipeline, resolved

if TYPE_CHECKING:
    from medfuse.data.plan import DataPlan

_FREE = ("name", "infer", "report", "train")  # what a run that is carried on may say differently, but for:
_FIXED_TRAIN = (
    "optimizer",
    "learning_rate",
    "weight_decay",
    "decay",
    "warmup",
    "average",
    "parts",
    "pseudo_labels",
    "guided",
)


def resolved_values(pipeline: Pipeline, plan: DataPlan) -> dict[str, Any]:
    """The pipeline with every `auto` value that the data decided."""
    values = resolved(pipeline)
    values["preprocess"]["spacing_mm"] = list(plan.spacing_mm)
    values["sample"] |= {"patch_size": list(plan.patch_size), "batch_size": plan.batch_size}
    return values


def refuse_another_pipeline(folder: Path, pipeline: Pipeline) -> None:
    """A run folder holds one pipeline; its budget, device and inference may change when it is carried on."""
    source = folder / "pipeline.json"
    now = json.loads(json.dumps(_identity(pipeline)))
    if source.exists():
        before = json.loads(source.read_text(encoding="utf-8"))
        if differing := list(_differences(before, now)):
            raise MedfuseError(
                f"{folder} holds the run of another pipeline ({'; '.join(differing[:3])}); "
                "give this one another name (--set name=…), or delete that folder"
            )
    else:
        make_folder(folder)
        write_json(source, now)


def kept_precision(folder: Path, device: str, choose: Callable[[], Precision]) -> Precision:
    """What `choose` chooses, or chose when this run began on such a device: a run has one precision."""
    file = folder / "precision.json"
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        if before["device"] == device:
            return Precision(before["kind"], "as the run began")
    chosen = choose()
    write_json(file, {"device": device, "kind": chosen.kind, "reason": chosen.reason})
    return chosen


def fold_folders(folder: Path) -> list[Path]:
    """The runs of a cross-validation, by their fold; none where `folder` holds no such thing."""
    found = [path for path in folder.glob("fold_*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def refuse_cross_validation(folder: Path) -> None:
    """A folder holds one run or the folds of one, as both would write the same files."""
    if fold_folders(folder):
        raise MedfuseError(
            f"{folder} holds a cross-validation; carry it on with --folds, or give this run another name "
            "(--set name=…)"
        )


def refuse_single_run(folder: Path) -> None:
    """The reverse of `refuse_cross_validation`."""
    if (folder / "pipeline.json").exists():
        raise MedfuseError(
            f"{folder} holds the run of a single fold; give the cross-validation another name "
            "(--set name=…), or delete that folder"
        )


def _identity(pipeline: Pipeline) -> dict[str, Any]:
    values = resolved(pipeline)
    kept = {key: value for key, value in values.items() if key not in _FREE}
    return {**kept, "train": {key: values["train"].get(key) for key in _FIXED_TRAIN}}


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif before != now and not (before is None and now == {}):  # a setting that is younger than the run
        yield f"{path} was {before!r}, is {now!r}"


def lock(pipeline: Pipeline, hashes: Mapping[str, str]) -> dict[str, Any]:
    """What it takes to do the same again."""
    import torch

    plugins = {
        f"{e.package} {e.version}"
        for contract in registry.CONTRACTS
        for e in registry.entries(contract.group)
        if e.package != "medfuse"
    }
    packages = ("torch", "monai", "numpy", "scipy", "nibabel", "SimpleITK", "lightning-fabric", "blosc2")
    return {
        "medfuse": medfuse.__version__,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "plugins": sorted(plugins),
        "seed": pipeline.seed,
        "machine": {
            "system": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "data": dict(hashes),
    }
