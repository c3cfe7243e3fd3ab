"""A network as one Python file of torch's own operations, and its tensors: it needs no code of medfuse's."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medfuse.core.errors import MedfuseError, reason
from medfuse.core.json_text import shortened

CONSTANTS = "constants"
"""Below it lie tensors that the network computes with and that are not in its state."""


@dataclass(frozen=True, eq=False)
class NetworkSource:
    """text: a module `network.py` with a class Network. state: all tensors that it takes, by name."""

    text: str
    state: Mapping[str, Tensor]


def network_source(network: nn.Module, window: Tensor, *, flat: bool = False) -> NetworkSource:
    """The network as it computes in evaluation, for windows of this size, any number of them.

    flat: whether all tensors are its own, by names like `tensor_7`, and it has no modules inside. Raises
    MedfuseError for a network that torch cannot take down.
    """
    try:
        return _source(network, window, flat=flat)
    except Exception as error:  # of torch's exporter, and of whoever wrote the network
        raise MedfuseError(
            f"its network cannot be written as plain calls of torch ({shortened(reason(error), 200)}); "
            "export it as huggingface or docker, where medfuse runs it"
        ) from error


def _source(network: nn.Module, window: Tensor, *, flat: bool) -> NetworkSource:
    network.eval()
    two = window.new_zeros((2, *window.shape[1:]))  # of one window, one would become the only number
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its exporter
        program = torch.export.export(network, (two,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        module = program.module(check_guards=False)
    own = network.state_dict()
    state: dict[str, Tensor] = {} if flat else dict(own)
    known: dict[str, str] = {}
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        name = str(node.target)
        if flat:
            node.target = known.setdefault(name, f"tensor_{len(known)}")
            state[node.target] = _at(module, name).detach()
        elif name not in own:
            node.target = f"{CONSTANTS}.{name.replace('.', '_')}"
            state[node.target] = _at(module, name).detach()
    output = module.graph.output_node()
    (answers,) = output.args
    assert isinstance(answers, tuple), "an exported program answers with a tuple"
    output.args = answers  # its one map
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    code = module.graph.python_code("self")
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    return NetworkSource(_text(code.src, state), state)


@contextmanager
def said_of(weights: Path) -> Iterator[None]:
    """What goes wrong with a network is said of its weights, in one line."""
    try:
        yield
    except MedfuseError as error:
        raise MedfuseError(f"{weights}: {error.lines[0]}") from error
    except Exception as error:  # of a network that computes otherwise as a program
        said = shortened(reason(error), 200)
        raise MedfuseError(
            f"{weights}: its network fails as plain calls of torch ({said}); export it as docker"
        ) from error


def made_of(source: NetworkSource) -> nn.Module:
    """The network as whoever reads the file makes it."""
    names: dict[str, Any] = {}
    exec(compile(source.text, "network.py", "exec"), names)  # our own text, of our own network
    made: nn.Module = names["Network"]()
    made.load_state_dict(dict(source.state))
    return made.eval()


def _at(module: nn.Module, name: str) -> Tensor:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor), f"{name} is a {type(value).__name__}"
    return value


_HEAD = '''"""The network, as operations of torch alone, written by `medfuse export`."""

# ruff: noqa
import torch
{imports}
TENSORS = [
{tensors}
]


class Network(torch.nn.Module):
    """Windows (batch, channels, *patch_size) -> logits. It computes as in evaluation."""

    def __init__(self):
        super().__init__()
        for name, shape, dtype in TENSORS:
            *path, last = name.split(".")
            inner = self
            for part in path:
                if not hasattr(inner, part):
                    inner.add_module(part, torch.nn.Module())
                inner = getattr(inner, part)
            tensor = torch.zeros(shape, dtype=getattr(torch, dtype))
            if tensor.is_floating_point():
                inner.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=False))
            else:
                inner.register_buffer(last, tensor)

{forward}
'''


def _text(source: str, state: Mapping[str, Tensor]) -> str:
    imports = [f"from math import {name}" for name in ("inf", "nan") if re.search(rf"\b{name}\b", source)]
    tensors = [
        f"    ({name!r}, {tuple(tensor.shape)!r}, {str(tensor.dtype).removeprefix('torch.')!r}),"
        for name, tensor in state.items()
    ]
    lines = [line for line in source.strip().splitlines() if line.strip()]
    start = next(n for n, line in enumerate(lines) if line.startswith("def forward"))
    argument = lines[start].partition("self, ")[2].partition(")")[0].partition(":")[0].strip()
    body = [line.replace("device(type='cpu')", f"{argument}.device") for line in lines[start:]]
    forward = "\n".join(f"    {line}" for line in body)
    return _HEAD.format(
        imports="\n".join(imports) + ("\n" if imports else ""), tensors="\n".join(tensors), forward=forward
    )
