"""Weights files as strangers may send them: a good one, and others that say what they like."""

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from medfuse.core.document import Document
from medfuse.data.plan import DataPlan, Normalization
from medfuse.model.segmenter import build_segmenter
from medfuse.pipeline import Pipeline, parse_pipeline, plan_network
from medfuse.trained.loading import weights_facts

PIPELINE = """
data: {use: folder, root: data, classes: {a: 1}, channels: [CT]}
model:
  backbones:
    encoder: {use: unet_encoder, base_channels: 4, stages: 2, convs: 1}
  fusion:
    decoded: {use: unet_decoder, inputs: [encoder.*], convs: 1}
  head: {input: decoded}
train: {steps: 1}
"""

PLAN = DataPlan(
    spacing_mm=(2.0, 2.0, 3.0),
    patch_size=(16, 16, 8),
    batch_size=2,
    channels=("CT",),
    normalization=(Normalization("ct", -100.0, 200.0, 0.0, 50.0),),
    labels={"background": 0, "a": 1},
    reasons={"batch_size": "as it was chosen"},
)


def pipeline(encoder: dict[str, Any] | None = None, inputs: str = "encoder.*") -> Pipeline:
    """The pipeline above, with another backbone, whose maps `inputs` are then concatenated."""
    document = Document.parse(PIPELINE, source="p.yaml", base=Path())
    if encoder:
        document.data["model"]["backbones"]["encoder"] = encoder
        document.data["model"]["fusion"]["decoded"] = {"use": "concat", "inputs": [inputs], "channels": 4}
    return parse_pipeline(document, default_name="p")


@cache
def _good() -> tuple[dict[str, torch.Tensor], str]:
    own = pipeline()
    network = build_segmenter(plan_network(own, PLAN.image, len(PLAN.classes)))
    return dict(network.state_dict()), json.dumps(weights_facts(own, PLAN))


def facts() -> dict[str, Any]:
    """What the good file says."""
    return json.loads(_good()[1])


def tensors() -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in _good()[0].items()}


def write(path: Path, said: Any) -> Path:
    """The good file's tensors with `said` of their model, a JSON value or a text."""
    text = said if isinstance(said, str) else json.dumps(said)
    save_file(tensors(), path, metadata={"medfuse": text})
    return path


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The good file's facts after `change`."""
    made = copy.deepcopy(facts())
    change(made)
    return made
