"""What a map depends on, as a short text that is the same where the map is: plugins, weights, code."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medfuse import registry
from medfuse.core.files import file_hash
from medfuse.model.plan import IMAGE, GraphPlan, names_of
from medfuse.model.segmenter import Segmenter


def map_keys(plan: GraphPlan, model: Segmenter, parts: Iterable[str]) -> dict[str, str]:
    """Name in the graph → digest, of all maps that `parts` (backbones and nodes) of `model` make.

    The names of parts do not count, nor which of a backbone's other layers are tapped: so graphs that differ
    behind a frozen backbone agree on its maps.
    """
    keys, chosen = {IMAGE: IMAGE}, {*parts}
    for b in plan.backbones:
        if b.name in chosen:
            strategy = registry.as_mapping(b.strategy)
            strategy.pop("layers", None)
            made_by = [_plugin(b.backbone), _plugin(b.strategy, strategy), contents(model.backbones[b.name])]
            image = [plan.image.channels, plan.image.patch_size, plan.image.spacing_mm]
            keys |= {f"{b.name}.{tap.name}": digest([image, *made_by, tap.name]) for tap in b.taps}
    for node in plan.nodes:
        if node.name in chosen:
            inputs = [keys[name] for name in names_of(node.inputs)]
            made_by = [_plugin(node.block), contents(model.fusion[node.name])]
            outputs = enumerate(names_of((node.output, *node.sides)))
            keys |= {name: digest([*made_by, inputs, number]) for number, name in outputs}
    return keys


def digest(value: Any) -> str:
    """Of plain data, in 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _plugin(plugin: Any, values: Mapping[str, Any] | None = None) -> list[Any]:
    return [registry.blame(plugin), dict(values or registry.as_mapping(plugin))]


def contents(module: nn.Module) -> list[Any]:
    """Every tensor of a module, its layers as they print themselves, and the code of their classes.

    That of torch by its version, others by their files.
    """
    hashed = hashlib.sha256()
    tensors = {**module.state_dict(), **dict(module.named_buffers())}
    for name in sorted(name for name, value in tensors.items() if isinstance(value, torch.Tensor)):
        tensor = tensors[name]
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    for name, inner in module.named_modules():
        said = re.sub(r"0x[0-9a-f]+", "", inner.extra_repr())  # addresses are others in each process
        hashed.update(f"{name} {type(inner).__module__}.{type(inner).__qualname__} {said}\n".encode())
        if isinstance(traced := getattr(inner, "code", None), str):  # of torch.fx, whose class has no file
            hashed.update(traced.encode())
    return [torch.__version__, hashed.hexdigest(), code_of({type(inner) for inner in module.modules()})]


def code_of(classes: Iterable[type]) -> list[str]:
    """The hashes of the files of some classes, but of torch's."""
    modules = {one.__module__ for one in classes}
    files = sorted({_file(name) for name in modules if not name.startswith("torch.")} - {""})
    return [file_hash(Path(file)) for file in files]


def _file(module: str) -> str:
    path = getattr(sys.modules.get(module), "__file__", None) or ""
    return path if Path(path).is_file() else ""
