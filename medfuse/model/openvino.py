"""Networks in OpenVINO: converted from torch, run on a CPU, kept in files with their facts.

Its `convert_model` is not used, as that is made to report to Intel over the network.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from medfuse.core.batches import in_batches_of
from medfuse.core.device import disagreement
from medfuse.core.engine import Running
from medfuse.core.errors import CheckpointError, MedfuseError
from medfuse.core.files import atomic
from medfuse.core.json_text import parse_json, shortened
from medfuse.core.offline import import_offline
from medfuse.model.sealed import KEY, NOTHING_YET, is_damaged, with_hash

if TYPE_CHECKING:
    import openvino

log = logging.getLogger(__name__)

_BY_ONE = Lock()
_FACTS = "medfuse"  # the one key of ours in a model's runtime information


def convert(model: nn.Module, example: Tensor) -> openvino.Model:
    """The network for windows of `example`'s size, in any number. Raises MedfuseError without OpenVINO."""
    ov = _openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    model.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of sizes that become constants, as they should
        traced = torch.jit.freeze(torch.jit.trace(model, (example.clone(),), check_trace=False))
        reader = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(traced)  # OpenVINO keeps no hold of it while it converts
        loaded = reader.load(decoder)
        # untyped, what joins several maps, as `torch.cat`, cannot be run by OpenVINO
        (given,) = (place for place in loaded.get_inputs() if place.is_input())
        loaded.set_partial_shape(given, ov.PartialShape([-1, *example.shape[1:]]))
        loaded.set_element_type(given, ov.Type.f32)
        return reader.convert(loaded)


def runner(network: openvino.Model, example: Tensor, precision: str) -> Running:
    """Runs on the CPU, compiled for batches like `example`: windows → logits.

    `precision` is "fp32", "bf16", or "auto": bf16 where the processor has units for it and it answers
    `example` as fp32 does. A network that was quantised runs in "int8", whatever is asked for, and what it
    keeps in floating point in bf16 where the processor has units for it. What is computed in bf16 is given as
    bf16: nothing is lost, and logits of many classes take half the bytes and a third of the time. Raises
    MedfuseError for windows that lie on another device.
    """
    if example.device.type != "cpu":
        raise MedfuseError(f"openvino runs on the CPU, and the windows lie on {example.device.type}")
    if is_quantized(network):
        return compiled(network, example, "int8")
    if precision != "auto":
        return compiled(network, example, precision)
    if not has_bf16():
        log.info("openvino runs the network in fp32: this processor has no bf16 units")
        return compiled(network, example, "fp32")
    exact, rough = (compiled(network, example, kind) for kind in ("fp32", "bf16"))
    fault = disagreement(exact(example), rough(example))
    log.info("openvino runs the network in %s", f"fp32: in bf16 {fault}" if fault else "bf16")
    return exact if fault else rough


def installed() -> None:
    """Raises MedfuseError where OpenVINO is not."""
    _openvino()


def has_bf16() -> bool:
    """Whether OpenVINO has kernels in bf16 for this processor."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def is_quantized(network: openvino.Model) -> bool:
    """Whether any of it is computed in int8."""
    return any(operation.get_type_name() == "FakeQuantize" for operation in network.get_ops())


def save(network: openvino.Model, path: Path, facts: Mapping[str, Any]) -> None:
    """Write PATH.xml and, beside it, PATH.bin. While there is an .xml, the two belong together.

    Raises OutputError.
    """
    ov = _openvino()
    network.input(0).set_names({"image"})
    network.output(0).set_names({"logits"})  # as the file's readers are told, whatever a trace called them
    network.set_rt_info(json.dumps(dict(facts)), [_FACTS])
    network.set_rt_info(NOTHING_YET, [KEY])
    with atomic(path) as structure, atomic(path.with_suffix(".bin")) as weights:
        ov.serialize(network, structure, weights)
        structure.write_bytes(with_hash(structure.read_bytes(), weights.read_bytes()))
        path.unlink(missing_ok=True)


def load(path: Path) -> tuple[openvino.Model, dict[str, Any]]:
    """The network and the facts of an .xml that `save` wrote. Raises CheckpointError."""
    beside = path.with_suffix(".bin")
    if not beside.is_file():
        raise CheckpointError(
            f"{path}: there is no {beside.name} beside it; copy it, too, or export it again"
        )
    structure, weights = path.read_bytes(), beside.read_bytes()
    if is_damaged(structure, weights):
        raise CheckpointError(
            f"{path}: is damaged, or {beside.name} is that of another network (its hash is not that of their "
            "content); export it again"
        )
    if not structure.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):  # OpenVINO would try other formats
        raise CheckpointError(f"{path}: is no XML; use a file of `medfuse export`")
    if _FACTS.encode() not in structure:
        raise CheckpointError(f"{path}: was not written by medfuse; use a file of `medfuse export`")
    ov = _openvino()
    try:
        network = _core().read_model(structure, ov.Tensor(np.frombuffer(weights, np.uint8)))
        known = network.has_rt_info([_FACTS]) and len(network.inputs) == len(network.outputs) == 1
        text = network.get_rt_info([_FACTS]).astype(str) if known else ""
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: cannot be read by OpenVINO ({shortened(str(error), 200)}); export it again"
        ) from error
    if not known:
        raise CheckpointError(f"{path}: was not written by medfuse; use a file of `medfuse export`")
    facts = parse_json(text, f"{path}: its facts", raises=CheckpointError, remedy="export it again")
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path}: its facts are no JSON object; export it again")
    return network, facts


def compiled(network: openvino.Model, example: Tensor, precision: str) -> Running:
    """As `runner`, in "fp32", "bf16" or "int8", whatever the network gives."""
    ov = _openvino()
    fixed = network.clone()
    fixed.reshape({0: ov.PartialShape([*example.shape])})
    short = precision == "bf16" or (precision == "int8" and has_bf16())
    if short:
        fixed = _answering_in_bf16(fixed)
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if short else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    made = _core().compile_model(fixed, "CPU", settings)
    request = made.create_infer_request()
    shape, dtype = tuple(made.output(0).shape), torch.bfloat16 if short else torch.float32

    def run(windows: Tensor) -> Tensor:
        logits = torch.empty(shape, dtype=dtype)  # OpenVINO writes into it, so that nothing is copied
        given = windows.float().contiguous()  # held until the answer is there: OpenVINO does not hold it
        request.set_input_tensor(ov.Tensor(given.numpy(), shared_memory=True))
        if dtype == torch.bfloat16:  # which numpy does not know
            bits = logits.view(torch.int16).numpy()
            request.set_output_tensor(ov.Tensor(bits, ov.Shape(shape), ov.Type.bf16))
        else:
            request.set_output_tensor(ov.Tensor(logits.numpy(), shared_memory=True))
        request.infer()
        return logits

    return Running(
        in_batches_of(len(example), run), precision=precision, versions={"openvino": ov.get_version()}
    )


def _answering_in_bf16(network: openvino.Model) -> openvino.Model:
    ov = _openvino()
    from openvino.preprocess import PrePostProcessor

    processor = PrePostProcessor(network)
    processor.output().tensor().set_element_type(ov.Type.bf16)
    return processor.build()


@cache
def _first_core() -> Any:
    return _openvino().Core()


def _core() -> Any:
    """The one Core, which this process keeps to its end.

    OpenVINO's CPU plugin gives the thread that loads it another stack for signals, and frees that stack when
    it is unloaded. Where another thread drops the last network, and with it the plugin, the first thread is
    left with a stack that is not there, and the next signal, such as Ctrl-C, is a segmentation fault.
    """
    with _BY_ONE:
        return _first_core()


def _openvino() -> Any:
    try:
        return import_offline("openvino")
    except ImportError as error:
        raise MedfuseError(
            f"runtime openvino: it is not installed ({error}); pip install 'medfuse[openvino]'"
        ) from None
