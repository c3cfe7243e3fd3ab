"""A network in int8 as its gate judged it; on another processor only after a look at a few stored windows."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medfuse.core.device import machine_facts, processor, versions
from medfuse.core.engine import Running
from medfuse.core.errors import CheckpointError
from medfuse.core.remembered import recall, remember
from medfuse.model.gate import NETWORK, WINDOWS, Gate, beside, passed
from medfuse.model.openvino import convert, load, runner
from medfuse.model.quantized import decided, seconds_in_turns
from medfuse.model.weights import load_weights

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

SAME = 0.998
"""Share of the voxels of stored windows that have to be decided as they were where the gate was passed."""
_FILE = "int8.json"  # what other processors found, in the cache


def run_in_int8(network: nn.Module, example: Tensor) -> Running:
    """The network in int8, which tells the gate that it passed.

    On a processor that is not the gate's, and does not give the same or gains nothing, it is the network in
    bf16 or fp32, and a line says so.

    Raises CheckpointError where no gate was passed, and MedfuseError without OpenVINO.
    """
    gate, where = passed(network), beside(network)
    assert where is not None, "what has passed a gate lies somewhere"
    quantized, _ = load(where.folder / NETWORK)
    run = runner(quantized, example, "int8")
    if not is_here(gate):
        if fault := _seen_before(gate, network, example, run, where.folder):
            log.warning(
                "%s: not in int8, which passed its gate on another machine: %s; `medfuse quantize` judges "
                "it here",
                where.weights,
                fault,
            )
            return runner(convert(network, example), example, "auto")
        log.info("int8 passed its gate on another machine, and gives the same here")
    return Running(run, **{**run.engine, "gate": digest_of(gate)})


def digest_of(gate: Gate) -> str:
    """By which a gate is known in records of what it let through."""
    return hashlib.sha256(gate.model_dump_json().encode()).hexdigest()


def machine_here() -> tuple[dict[str, Any], dict[str, str]]:
    """What decides how fast it is and what it gives, and the versions that do."""
    facts: dict[str, Any] = json.loads(json.dumps(machine_facts(torch.device("cpu"))))
    return facts, versions("openvino", "nncf", "torch")


def is_here(gate: Gate) -> bool:
    """Whether the gate was passed on a machine like this, by the OpenVINO that is here."""
    machine, installed = machine_here()
    return gate.machine == machine and gate.versions.get("openvino") == installed["openvino"]


def _seen_before(gate: Gate, network: nn.Module, example: Tensor, run: Running, folder: Path) -> str:
    """What `_look` says, remembered for this machine."""
    machine, installed = machine_here()
    told = json.dumps([digest_of(gate), machine, installed["openvino"], [*example.shape]], sort_keys=True)
    key = hashlib.sha256(told.encode()).hexdigest()
    known = recall(_FILE, key)
    if isinstance(known, str):
        return known
    fault = _look(gate, network, example, run, folder)
    remember(_FILE, key, fault)
    return fault


def _look(gate: Gate, network: nn.Module, example: Tensor, run: Running, folder: Path) -> str:
    """What speaks against int8 here, or nothing: other labels of the stored windows, or no gain in time."""
    windows, labels = stored_windows(folder)
    same = share_alike(decided(run(windows), gate.kind), labels)
    if same < SAME:
        return (
            f"on {processor()} it decides {1 - same:.2%} of the voxels of {len(windows)} stored windows "
            "otherwise"
        )
    taken = seconds_in_turns(
        {"int8": run, "else": runner(convert(network, example), example, "auto")}, example
    )
    if taken["int8"] >= taken["else"]:
        return f"it gains nothing on {processor()} ({taken['int8']:.3g} s against {taken['else']:.3g} s)"
    return ""


def stored_windows(folder: Path) -> tuple[Tensor, Tensor]:
    """A few windows of calibration (n, channels, *patch), and what int8 decided of them. Raises
    CheckpointError."""
    tensors, _ = load_weights(folder / WINDOWS)
    if {*tensors} != {"windows", "labels"}:
        raise CheckpointError(f"{folder / WINDOWS}: holds no windows; run `medfuse quantize` again")
    return tensors["windows"], tensors["labels"]


def share_alike(some: Tensor, others: Tensor) -> float:
    """Of voxels that are decided alike, between 0 and 1."""
    return float((some == others).float().mean()) if some.shape == others.shape else 0.0
