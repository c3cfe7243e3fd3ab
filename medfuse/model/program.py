"""Networks as programs of torch.export: kept in .pt2 files with their facts, run by torch."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.graph import CodeGen

from medfuse.core.errors import CheckpointError, reason
from medfuse.core.files import atomic
from medfuse.model.archive import FACTS, members_of, packed, plain_archive


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
    """Write the network for windows of `example`'s size, any number of them. Raises OutputError.

    The inputs that torch pickles beside a program are left out: nothing in the file is a pickle.
    """
    model.eval()
    two = example.new_zeros((2, *example.shape[1:]))  # of one window, one would become the only number
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its exporter
        program = torch.export.export(model, (two,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # which lines of which files on this machine it was made of
        content = io.BytesIO()  # given a path, torch would name the archive's folder after it
        torch.export.save(program, content, extra_files={FACTS: json.dumps(dict(facts))})
    with atomic(path) as temporary:
        temporary.write_bytes(packed(members_of(content)).getbuffer())


def load(path: Path, device: torch.device) -> tuple[Program, dict[str, Any]]:
    """The network on `device`, and the facts, of a file that `save` wrote.

    Raises CheckpointError, also for a file that holds anything but a plain program (see model.archive).
    """
    content, facts = plain_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of what it reads
            program = torch.export.load(content)
            if device.type != "cpu":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, device)
            return Program(program).eval(), facts
    except Exception as error:  # torch has many ways to refuse a file
        raise CheckpointError(
            f"{path}: cannot be read by torch ({reason(error)}); export it again"
        ) from error
