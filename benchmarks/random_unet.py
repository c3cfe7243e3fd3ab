"""A U-Net with random weights, as a file that medfuse infers with: speed and memory need no training."""

from pathlib import Path

import torch

from medfuse.data.plan import DataPlan, Normalization
from medfuse.model.graph import plan_graph
from medfuse.model.segmenter import build_segmenter
from medfuse.model.settings import ModelSettings
from medfuse.model.weights import save_weights


def random_unet(
    path: Path,
    *,
    levels: int,
    window: int,
    classes: int,
    channels: int = 32,
    spacing_mm: float = 1.0,
    background: float = 0.0,
) -> Path:
    """`levels` levels of `channels`, twice as many, … at most 320 channels; cubic windows and voxels.

    background: added to the logits of class 0.
    """
    model = {
        "backbones": {"encoder": {"use": "unet_encoder", "base_channels": channels, "stages": levels}},
        "fusion": {"decoded": {"use": "unet_decoder", "inputs": ["encoder.*"]}},
        "head": {"input": "decoded"},
    }
    labels = {"background": 0, **{f"organ_{n}": n for n in range(1, classes)}}
    spacing, size = (spacing_mm,) * 3, (window,) * 3
    plan = DataPlan(spacing, size, 1, ("CT",), (Normalization("none"),), labels, {})
    torch.manual_seed(0)
    network = build_segmenter(plan_graph(ModelSettings.model_validate(model), plan.image, classes))
    with torch.no_grad():
        network.state_dict()["head.bias"][0] += background
    facts = {"medfuse": "", "name": "unet", "fold": None, "model": model, "watched": [], "infer": {}}
    save_weights(path, network, {**facts, "data": plan.to_json()})
    return path
