"""Weights files of small networks that nobody trained, in all the ways in which a model can be made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from medfuse.data.plan import DataPlan, Normalization
from medfuse.infer.settings import InferSettings
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.model.weights import save_weights

UNET = {
    "backbones": {"encoder": {"use": "unet_encoder", "base_channels": 4, "stages": 3}},
    "fusion": {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"]}},
    "head": {"input": "decoded"},
}
SLICES = {
    "backbones": {
        "encoder": {
            "use": "slices",
            "neighbours": 1,
            "of": {"use": "unet_encoder", "base_channels": 4, "stages": 2},
        }
    },
    "fusion": {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"]}},
    "head": {"input": "decoded"},
}
CT = Normalization("ct", -100.0, 200.0, 40.0, 60.0)
PLAN = DataPlan(
    spacing_mm=(1.5, 1.5, 2.0),
    patch_size=(16, 16, 16),
    batch_size=1,
    channels=("CT",),
    normalization=(CT,),
    labels={"background": 0, "liver": 1, "tumour": 4},
    reasons={},
)
REGIONS = replace(
    PLAN, labels={"background": 0, "whole": (1, 2, 3), "core": (2, 3), "inner": 3}, region_order=(1, 2, 3)
)
TIDY = {
    "postprocess": {
        "largest_component": ["whole"],
        "fill_holes": ["core"],
        "minimum_ml": {"inner": 0.02},
        "threshold": {"core": 0.3},
    }
}
TWO = replace(
    PLAN, channels=("T1", "FLAIR"), normalization=(Normalization("zscore"), Normalization("nonzero_zscore"))
)
MANY = {"background": 0, **{f"label {n}": 7 * n for n in range(1, 60)}}
MODELS: dict[str, tuple[DataPlan, dict[str, Any], Mapping[str, Any]]] = {
    "ct": (PLAN, UNET, {}),
    "anisotropic": (
        replace(PLAN, spacing_mm=(1.0, 1.0, 5.0), patch_size=(32, 32, 8)),
        UNET,
        {"overlap": 0.25},
    ),
    "two channels": (TWO, UNET, {"mirror": ["x", "z"], "batch_size": 2}),
    "regions": (REGIONS, UNET, {}),
    "tidied regions": (REGIONS, UNET, TIDY),
    "slices": (replace(PLAN, patch_size=(16, 16)), UNET, {"mirror": ["y"]}),
    "neighbours": (replace(PLAN, patch_size=(16, 16, 4)), SLICES, {}),
    "windows": (
        replace(PLAN, normalization=(Normalization("windows", windows=((-160.0, 240.0), (-100.0, 50.0))),)),
        UNET,
        {"stepped": "gaussian", "overlap": 0.4},
    ),
    "percentiles": (
        replace(TWO, normalization=(Normalization("unit"), Normalization("symmetric"))),
        UNET,
        {"stepped": "constant"},
    ),
    "many labels": (replace(PLAN, normalization=(Normalization("none"),), labels=MANY), UNET, {}),
}


def write_model(path: Path, name: str = "ct", *, more: Mapping[str, Any] | None = None) -> Path:
    """A weights file; `more` goes into its facts."""
    plan, model, infer = MODELS[name]
    torch.manual_seed(0)
    settings = ModelSettings.model_validate(model)
    network = build_segmenter(plan_graph(settings, plan.image, len(plan.classes)))
    with torch.no_grad():
        network.head.weight.mul_(3)  # so that labels have a shape
        network.head.bias.zero_()
    facts = {
        "medfuse": "0.1.0",
        "name": "small",
        "fold": 0,
        "model": settings.model_dump(mode="json", exclude_none=True),
        "watched": [],
        "infer": InferSettings.model_validate(infer).model_dump(mode="json", exclude_none=True),
        "data": plan.to_json(),
        "trained": {"step": 7},
    }
    save_weights(path, network, {**facts, **(more or {})})
    return path


def write_scans(folder: Path, channels: int = 1) -> Path:
    """Scans in other axes, at other spacings, smaller than a window, and turned against the patient."""
    folder.mkdir(parents=True, exist_ok=True)
    turned = np.diag([1.5, 1.5, 2.0, 1.0])
    angle = np.deg2rad(20)
    oblique = np.eye(4)
    oblique[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    grids = {
        "plain": ((22, 26, 20), turned),
        "axial": ((30, 20, 7), np.diag([-0.9, -1.1, 5.0, 1.0])),
        "coronal": ((20, 9, 24), np.array([[0, 0, 1.5, 3], [-1.2, 0, 0, 1], [0, 3.0, 0, -7], [0, 0, 0, 1]])),
        "sagittal": ((8, 20, 22), np.array([[3.0, 0, 0, 0], [0, 0, -1.3, 0], [0, -1.1, 0, 9], [0, 0, 0, 1]])),
        "tiny": ((5, 6, 3), turned),
        "oblique": ((20, 20, 12), oblique @ turned),
    }
    for seed, (name, (shape, affine)) in enumerate(grids.items()):
        random = np.random.default_rng(seed)
        for channel in range(channels):
            voxels = (random.normal(40, 80, shape) * np.linspace(0.2, 1.5, shape[0])[:, None, None]).astype(
                np.int16
            )
            voxels[:2] = 0
            number = f"_{channel:04d}" if channels > 1 else ""
            nibabel.save(nibabel.Nifti1Image(voxels, affine), folder / f"{name}{number}.nii.gz")
    return folder
