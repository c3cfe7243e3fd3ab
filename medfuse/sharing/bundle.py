"""A MONAI bundle: `python -m monai.bundle run` segments with it, without medfuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import torch

from medfuse.core.device import disagreement
from medfuse.core.errors import MedfuseError
from medfuse.infer.settings import PostprocessSettings
from medfuse.model.bundled import FACTS, MODEL, facts_of_bundle
from medfuse.sharing.description import Description
from medfuse.sharing.model import SharedModel, write_json
from medfuse.sharing.network_source import CONSTANTS, NetworkSource, made_of, network_source, said_of

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
_NOT_SAID = "not said"
LOGGING = """[loggers]
keys=root

[handlers]
keys=console

[formatters]
keys=plain

[logger_root]
level=INFO
handlers=console

[handler_console]
class=StreamHandler
level=INFO
formatter=plain
args=(sys.stdout,)

[formatter_plain]
format=%(asctime)s - %(levelname)s - %(message)s
"""


def write(folder: Path, model: SharedModel) -> None:
    """Its configuration, network, weights, scripts and page. Raises MedfuseError for a network that torch
    cannot take down, or that answers otherwise as a bundle's."""
    trained = model.trained
    image = trained.plan.image
    window = torch.randn((1, image.channels, *image.patch_size), generator=torch.Generator().manual_seed(0))
    network = trained.segmenter()
    with said_of(model.weights):
        source = network_source(network, window)
        with torch.inference_mode():
            if fault := disagreement(network(window), made_of(source)(window)):
                raise MedfuseError(f"as a bundle's {fault}; export it to another format")
    for name, text in scripts().items():
        _write(folder / "scripts" / name, text)
    _write(folder / "scripts" / "network.py", source.text)
    (folder / "models").mkdir()
    _save(folder / MODEL, source)
    write_json(folder / FACTS, facts_of_bundle(source.state, model.facts, CONSTANTS))
    write_json(folder / "configs" / "metadata.json", bundle_metadata(model))
    write_json(folder / "configs" / "inference.json", inference(model))
    _write(folder / "configs" / "logging.conf", LOGGING)
    model.write_about(folder, _how(), readme="docs/README.md")


def scripts() -> dict[str, str]:
    """The Python files that every bundle has, by name."""
    package = resources.files("medfuse.sharing.alone")
    return {one.name: one.read_text("utf-8") for one in package.iterdir() if one.name.endswith(".py")}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _save(path: Path, source: NetworkSource) -> None:
    """As MONAI's CheckpointLoader reads it: a state dict. The same tensors are the same bytes."""
    with path.open("wb") as file:  # given a path, torch would name what is inside after it
        torch.save(dict(source.state), file)


def _how() -> list[str]:
    return [
        "Needs `pip install torch monai nibabel fire` (and scipy, where its labels are tidied), and a folder "
        "of .nii.gz files; of several channels CASE_0000.nii.gz, CASE_0001.nii.gz, …",
        "```\npython -m monai.bundle run --config_file configs/inference.json --bundle_root . "
        "--dataset_dir SCANS --output_dir LABELS\n```",
        "Images are scaled, resampled and seen through windows by the code in `scripts`, as medfuse does it. "
        "`medfuse infer FOLDER -i SCANS -o LABELS` reads this folder, too, and `medfuse import-bundle` makes "
        "a run of it, from which a training can start.",
    ]


def bundle_metadata(model: SharedModel) -> dict[str, Any]:
    """configs/metadata.json, in the words of MONAI's schema."""
    said, plan = model.description, model.trained.plan
    image = plan.image
    patch = list(plan.patch_size)
    tensor = {"spatial_shape": patch, "dtype": "float32", "value_range": [], "is_patch_data": True}
    names = ", ".join(label.name for label in said.labels[:20])
    modality = "/".join(dict.fromkeys(said.modalities))
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by medfuse {said.medfuse}"},
        "monai_version": metadata.version("monai"),
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": _packages(model),
        "supported_apps": {},
        "name": said.name,
        "task": f"segmentation of {names} in {modality}"[:200],
        "description": f"{said.name}: {said.kind}; segments {names} in {modality}",
        "authors": _NOT_SAID,
        "copyright": _NOT_SAID,
        "data_type": "nibabel",
        "intended_use": "research; it is no medical device",
        "eval_metrics": _metrics(said),
        "references": [],
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "hounsfield" if said.modalities[0] == "CT" else "magnitude",
                    "modality": modality,
                    "num_channels": image.channels,
                    **tensor,
                    "channel_def": {str(n): name for n, name in enumerate(_inputs(said))},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(plan.classes),
                    **tensor,
                    "channel_def": {str(n): name for n, name in enumerate(plan.classes)},
                }
            },
        },
    }


def _packages(model: SharedModel) -> dict[str, str]:
    steps = model.trained.settings.postprocess
    needed = ["nibabel", *(["scipy"] if isinstance(steps, PostprocessSettings) else [])]
    return {name: metadata.version(name) for name in needed}


def _metrics(said: Description) -> dict[str, float]:
    if said.score is None or said.score.overall.dice is None:
        return {}
    return {"mean_dice": said.score.overall.dice}


def _inputs(said: Description) -> list[str]:
    """The name of each input of the network: a channel that is seen through several windows has several."""
    return [
        f"{channel.name} {low:g} to {high:g}" if channel.normalization.windows else channel.name
        for channel in said.channels
        for low, high in channel.normalization.windows or ((0, 0),)
    ]


def inference(model: SharedModel) -> dict[str, Any]:
    """configs/inference.json: what `run` needs, and the parts that other programs of MONAI's ask for."""
    plan, settings = model.trained.plan, model.trained.settings
    several = len(plan.channels) > 1
    written = plan.region_order or plan.values
    steps = settings.postprocess
    tidy = steps.model_dump(mode="json") if isinstance(steps, PostprocessSettings) else {}
    largest = max(written)
    return {
        "imports": [
            "$import numpy",
            "$import torch",
            "$from scripts.running import cases",
            "$from scripts.running import segment",
        ],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/datasets'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": "scripts.network.Network"},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {
                    "_target_": "scripts.preparing.Prepared",
                    "keys": "image",
                    "spacing_mm": list(plan.spacing_mm),
                    "normalization": [_plain(how) for how in plan.normalization],
                },
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": f"$cases(@dataset_dir, {len(plan.channels)})",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {
            "_target_": "scripts.windows.Windows",
            "roi_size": list(plan.patch_size),
            "overlap": settings.windows_overlap,
            "sw_batch_size": settings.batch_size,
            "stepped": settings.stepped,
            "mirror": list(settings.mirror),
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "scripts.labels.LabelMap",
                    "keys": "pred",
                    "image": "image",
                    "values": list(written),
                    "regions": bool(plan.region_order),
                    "labels": {n: list(v) if isinstance(v, tuple) else v for n, v in plan.labels.items()},
                    "postprocess": tidy,
                    "several": several,
                },
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "",
                    "separate_folder": False,
                    "resample": False,
                    "output_dtype": f"$numpy.{_kind(largest)}",
                },
            ],
        },
        "load": "$@network.load_state_dict("
        "torch.load(@bundle_root + '/models/model.pt', map_location=@device, weights_only=True))",
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@load", "$segment(@dataset, @network, @inferer, @postprocessing, @device)"],
        "evaluate": ["$@evaluator.run()"],
    }


def _plain(how: Any) -> dict[str, Any]:
    return {**asdict(how), "windows": [list(ends) for ends in how.windows]}


def _kind(largest: int) -> str:
    return "uint8" if largest < 2**8 else "uint16" if largest < 2**16 else "uint32"


def differences(model: SharedModel) -> Sequence[str]:
    """What a bundle does otherwise than `medfuse infer`, a line each."""
    settings = model.trained.settings
    told = []
    if settings.skip_air:
        told.append("infer.skip_air is not done in a bundle: windows in air are asked about, too")
    if settings.adaptive_overlap is not None:
        told.append("infer.adaptive_overlap is not done in a bundle: every window is asked about")
    if settings.postprocess == "auto":
        told.append("infer.postprocess: auto is what a run's folder tells; in a bundle nothing is done")
    return told
