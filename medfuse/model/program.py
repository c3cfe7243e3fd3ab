"""Networks as programs of torch.export: kept in .pt2 files with their facts, run by torch."""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.graph import CodeGen

from medfuse.core.errors import CheckpointError, reason
from medfuse.core.files import atomic

_FACTS = "medfuse.json"

# torch.export.load unpickles, evaluates expressions and looks up functions by name, whatever the file says.
# These are what networks of convolutions need.
_OPERATION = re.compile(r"torch\.ops\.aten\.\w+\.\w+|_operator\.(getitem|mul|add|sub|floordiv|eq|ge|le)")
_EXPRESSION = re.compile(r"(?:(?:Symbol|Integer|Add|Mul|Pow)\(|'\w+'|\w+=True|-?\d+|[(), ])*")


class Program(nn.Module):
    """A program as a network: windows (batch, channels, *patch_size) → logits. It knows evaluation only."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        graph = program.module(check_guards=False)
        graph.graph.set_codegen(
            CodeGen()
        )  # the program's own checks its input in ways that no tracer follows
        self.graph = GraphModule(graph, graph.graph)

    def forward(self, windows: Tensor) -> Tensor:
        logits: Tensor = self.graph(windows)[0]
        return logits


def save(model: nn.Module, example: Tensor, path: Path, facts: Mapping[str, Any]) -> None:
    """Write the network for windows of `example`'s size, any number of them. Raises OutputError."""
    model.eval()
    two = example.new_zeros((2, *example.shape[1:]))  # of one window, one would become the only number
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its exporter
        program = torch.export.export(model, (two,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # which lines of which files on this machine it was made of
        content = io.BytesIO()  # given a path, torch would name the archive's folder after it
        torch.export.save(program, content, extra_files={_FACTS: json.dumps(dict(facts))})
    with atomic(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load(path: Path, device: torch.device) -> tuple[Program, dict[str, Any]]:
    """The network on `device`, and the facts, of a file that `save` wrote.

    Raises CheckpointError, also for a file with pickled objects or with calls that no network needs.
    """
    content = path.read_bytes()
    kept = {_FACTS: ""}
    try:
        if fault := next(_suspicions(content), ""):
            raise CheckpointError(f"{path}: {fault}, and is not loaded; use a file of `medfuse export`")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of what it reads
            program = torch.export.load(io.BytesIO(content), extra_files=kept)
            if device.type != "cpu":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, device)
            network = Program(program).eval()
    except CheckpointError:
        raise
    except Exception as error:  # torch has many ways to refuse a file
        raise CheckpointError(
            f"{path}: cannot be read by torch ({reason(error)}); export it again"
        ) from error
    if not kept[_FACTS]:
        raise CheckpointError(f"{path}: was not written by medfuse; use a file of `medfuse export`")
    return network, json.loads(kept[_FACTS])


def _suspicions(content: bytes) -> Iterator[str]:
    """What in a .pt2 file could run code of its author while it is loaded."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        if not any("/models/" in name for name in names):
            yield "is no program of this version of torch"
        if len(set(names)) != len(names):
            yield "has two files of one name, of which torch may read the other"
        for name in names:
            inner = name.partition("/")[2]
            if inner.startswith("data/sample_inputs/"):
                try:
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
                except Exception:
                    yield f"has objects that are no tensors in {inner}"
            elif inner.endswith(".json") and not inner.startswith("extra/"):
                yield from _calls(json.loads(archive.read(name)), inner)
            elif inner.startswith("data/") and inner.endswith((".pt", ".pkl")):
                yield f"has pickled objects in {inner}"


def _calls(value: Any, where: str) -> Iterator[str]:
    """Pickles, functions and expressions that are none of a plain network's, anywhere in a JSON value."""
    if isinstance(value, list):
        for item in value:
            yield from _calls(item, where)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key == "use_pickle" and item:
            yield f"has pickled objects in {where}"
        if key == "target" and isinstance(item, str) and not _OPERATION.fullmatch(item):
            yield f"calls {item[:80]}"
        if key == "expr_str" and not _EXPRESSION.fullmatch(str(item)):
            yield f"evaluates {str(item)[:80]}"
        yield from _calls(item, where)
