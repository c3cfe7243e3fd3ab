"""Networks in int8: quantised by NNCF on windows of real cases, but for layers that do not bear it."""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from medfuse.core.errors import MedfuseError
from medfuse.core.json_text import shortened
from medfuse.core.offline import import_offline
from medfuse.model.openvino import compiled, has_bf16
from medfuse.model.transposed import without_transposed

if TYPE_CHECKING:
    import openvino

Kind = Literal["softmax", "regions"]
Run = Callable[[Tensor], Tensor]

_MULTIPLY = (
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "MatMul",
)
_CARRY = (
    "Parameter",
    "Constant",
    "Convert",
    "DepthToSpace",
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Result",
)
"""What gives layers their inputs as they are. All else stays in floating point: rounded to int8, what a norm
is given makes a quarter of all errors, and saves no time."""

_MOST_TURNS, _TURNS_SECONDS = 50, 2.0


def quantize(
    network: openvino.Model, windows: Sequence[Tensor], *, without: Iterable[str] = ()
) -> openvino.Model:
    """The network with its layers in int8 but for those in `without`, their ranges those of `windows`.

    windows: (1, channels, *patch_size). Raises MedfuseError without NNCF, or where it cannot quantise it.
    """
    return _quantized(network, windows, without)


def quantize_onnx(proto: Any, windows: Sequence[Tensor], *, without: Iterable[str] = ()) -> Any:
    """An ONNX network with QuantizeLinear and DequantizeLinear around its layers but those in `without`.

    Ranges are symmetric, int8 around 0, as TensorRT asks for. Raises as `quantize` does.
    """
    nncf = _nncf()
    kept = {f"{layer}." for layer in without}
    names = [
        node.name
        for node in proto.graph.node
        if any(given.startswith(layer) for given in node.input for layer in kept)
    ]
    given = proto.graph.input[0].name
    with _quiet(), _said():
        return nncf.quantize(
            proto,
            nncf.Dataset([{given: window.numpy()} for window in windows]),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(windows),
            **({"ignored_scope": nncf.IgnoredScope(names=names)} if names else {}),
        )


def installed() -> None:
    """Raises MedfuseError where NNCF is not."""
    _nncf()


def layers_of(network: openvino.Model) -> dict[str, list[str]]:
    """The layers that multiply, in the order of the graph, and the names of their operations in it."""
    found: dict[str, list[str]] = {}
    for operation in network.get_ordered_ops():
        if operation.get_type_name() in _MULTIPLY:
            name = operation.get_friendly_name()
            found.setdefault(layer_of(name), []).append(name)
    return found


def layer_of(operation: str) -> str:
    """`head` of `__module.head/aten::_convolution/Convolution`: the path of a module in torch."""
    return operation.partition("/")[0].removeprefix("__module.")


def errors_alone(
    network: openvino.Model, windows: Sequence[Tensor], shown: Sequence[Tensor]
) -> dict[str, float]:
    """What each layer does to the logits of `shown` when nothing else is in int8, the worst first.

    It is a relative root-mean-square error. Ranges are those of `windows`.
    """
    whole = _quantized(network, windows, (), for_trials=True)
    plain = compiled(network, shown[0], "fp32")
    exact = [plain(window).float() for window in shown]
    found = {}
    for layer in layers_of(whole):
        run = compiled(_only(whole, layer), shown[0], "fp32")
        off = sum(float((run(window).float() - right).square().sum()) for window, right in zip(shown, exact))
        found[layer] = (off / max(sum(float(right.square().sum()) for right in exact), 1e-24)) ** 0.5
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def decided(logits: Tensor, kind: Kind) -> Tensor:
    """What a window's logits (batch, classes, *spatial) decide of each voxel, before anything is stitched."""
    if kind == "softmax":
        return logits.float().argmax(1).to(torch.int16)
    return (logits > 0).to(torch.uint8)


def seconds_in_turns(runs: Mapping[str, Run], example: Tensor) -> dict[str, float]:
    """The median time of a pass of each, which take turns, so that a pause of the machine decides nothing."""
    for run in runs.values():
        run(example)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    for turn in range(_MOST_TURNS):
        if turn >= 3 and time.perf_counter() - began > _TURNS_SECONDS:
            break
        for name, run in runs.items():
            start = time.perf_counter()
            run(example)
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in taken.items()}


def _only(whole: openvino.Model, layer: str) -> openvino.Model:
    """`whole` with nothing but one layer in int8: the others take what their quantisers are given."""
    made = whole.clone()
    for operation in made.get_ordered_ops():
        if layer_of(operation.get_friendly_name()) == layer and operation.get_type_name() in _MULTIPLY:
            continue
        for given in operation.inputs():
            source = given.get_source_output().get_node()
            if source.get_type_name() == "FakeQuantize":
                given.replace_source_output(source.input_value(0))
    made.validate_nodes_and_infer_types()
    return made


def _quantized(
    network: openvino.Model, windows: Sequence[Tensor], without: Iterable[str], *, for_trials: bool = False
) -> openvino.Model:
    """`for_trials`: as it is before weights are stored in int8, so that layers can be put back."""
    nncf = _nncf()
    from nncf.openvino.quantization.backend_parameters import BackendParameters
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters

    network = without_transposed(network)
    has_bf16()  # loads OpenVINO's plugin, which has to stay when NNCF drops the Core that it makes
    kept = {*without}
    names = [name for layer, of in layers_of(network).items() if layer in kept for name in of]
    types = {operation.get_type_name() for operation in network.get_ops()} - {*_MULTIPLY, *_CARRY}
    scope = nncf.IgnoredScope(names=names, types=sorted(types), validate=False)
    how: dict[str, Any] = {"ignored_scope": scope}
    if for_trials:
        how["advanced_parameters"] = AdvancedQuantizationParameters(
            disable_bias_correction=True, backend_params={BackendParameters.COMPRESS_WEIGHTS: False}
        )
    with _quiet(), _said():
        return nncf.quantize(
            network,
            nncf.Dataset([window.numpy() for window in windows]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(windows),
            **how,
        )


@contextmanager
def _said() -> Iterator[None]:
    """What NNCF raises of a network, of kinds of its own and of OpenVINO's, in a line."""
    try:
        yield
    except Exception as error:
        raise MedfuseError(f"NNCF cannot quantise this network ({shortened(str(error), 200)})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without NNCF's progress bars and lines."""
    logger = logging.getLogger("nncf")
    level, raised = logger.level, logger.propagate
    logger.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    finally:
        logger.setLevel(level)
        logger.propagate = raised


def _nncf() -> Any:
    try:
        with _quiet():
            return import_offline("nncf")
    except ImportError as error:
        raise MedfuseError(f"nncf is not installed ({error}); pip install 'medfuse[int8]'") from None
