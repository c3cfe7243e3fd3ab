"""Networks in ONNX: exported from torch, run by ONNX Runtime, kept in files with their facts."""

from __future__ import annotations

import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medfuse.core.engine import Running
from medfuse.core.errors import CheckpointError, MedfuseError
from medfuse.core.files import atomic
from medfuse.core.json_text import parse_json, shortened
from medfuse.core.offline import import_offline
from medfuse.model.sealed import KEY, NOTHING_YET, is_damaged, with_hash

_FACTS = "medfuse"  # the keys of ours in a file's metadata: this, its hash, and
PRECISION = "precision"  # where it is not fp32
Provider = Literal["auto", "cpu", "cuda", "tensorrt"]
_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def write(
    model: nn.Module,
    example: Tensor,
    path: Path,
    facts: Mapping[str, Any] | None = None,
    change: Callable[[Any], Any] = lambda proto: proto,
) -> None:
    """One .onnx file: `image` of `example`'s size, any number of windows → `logits`, in fp32.

    change: what is made of the network before it is written.

    Raises MedfuseError without the packages for it, OutputError where it cannot be written.
    """
    onnx = _installed("onnx")
    _installed("onnxscript")
    model.eval()
    two = example.new_zeros((2, *example.shape[1:]))  # of one window, one would become the only number
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            model,
            (two,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            input_names=["image"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None, "without a path it returns what it made"
    proto = program.model_proto
    for node in (*proto.graph.node, *(node for function in proto.functions for node in function.node)):
        del node.metadata_props[:]  # which lines of which files on this machine it was made of
    proto = change(proto)
    if facts is not None:
        said = {PRECISION: str(facts[PRECISION])} if PRECISION in facts else {}
        onnx.helper.set_model_props(proto, {_FACTS: json.dumps(dict(facts)), **said, KEY: NOTHING_YET})
    content = proto.SerializeToString()
    with atomic(path) as temporary:
        temporary.write_bytes(content if facts is None else with_hash(content))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says of itself, as warnings, prints and log lines."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def load_facts(path: Path) -> dict[str, Any]:
    """What `write` was told to keep with the network. Raises CheckpointError."""
    if is_damaged(path.read_bytes()):
        raise CheckpointError(f"{path}: is damaged (its hash is not that of its content); export it again")
    session = _session(path, ["CPUExecutionProvider"])
    found = session.get_modelmeta().custom_metadata_map
    if _FACTS not in found:
        raise CheckpointError(f"{path}: was not written by medfuse; use a file of `medfuse export`")
    ends = [*session.get_inputs(), *session.get_outputs()]
    if len(session.get_inputs()) != 1 or len(ends) != 2 or any(end.type != "tensor(float)" for end in ends):
        raise CheckpointError(f"{path}: does not turn one image into logits; use a file of `medfuse export`")
    facts = parse_json(found[_FACTS], f"{path}: its facts", raises=CheckpointError, remedy="export it again")
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path}: its facts are no JSON object; export it again")
    return facts


def runner(path: Path, example: Tensor, provider: Provider) -> Running:
    """Windows like `example`, any number of them → logits in fp32 on the same device.

    Raises MedfuseError where this build of ONNX Runtime lacks what is asked for.
    """
    chosen = provider if provider != "auto" else example.device.type
    available = _installed("onnxruntime").get_available_providers()
    if _PROVIDERS.get(chosen) not in available:
        raise MedfuseError(
            f"runtime onnxruntime: it has no {chosen} provider (it has {', '.join(available)}); "
            "install onnxruntime-gpu, or choose another provider"
        )
    session = _session(path, [_PROVIDERS[chosen], *[_PROVIDERS["cuda"]][: chosen == "tensorrt"]])
    version = _installed("onnxruntime").__version__
    precision = "int8" if session.get_modelmeta().custom_metadata_map.get(PRECISION) == "int8" else "fp32"
    told: dict[str, Any] = {"provider": chosen, "versions": {"onnxruntime": version}}
    run = _on_cpu(session) if chosen == "cpu" else _on_cuda(session)
    return Running(run, precision=precision, **told)


def runs_on_cuda() -> bool:
    """Whether this build of ONNX Runtime computes on NVIDIA GPUs."""
    return _PROVIDERS["cuda"] in _installed("onnxruntime").get_available_providers()


def _on_cpu(session: Any) -> Callable[[Tensor], Tensor]:
    def run(windows: Tensor) -> Tensor:
        (logits,) = session.run(None, {session.get_inputs()[0].name: windows.float().cpu().numpy()})
        return torch.from_numpy(logits).to(windows.device)

    return run


def _on_cuda(session: Any) -> Callable[[Tensor], Tensor]:
    """Windows and logits stay on the GPU: the session is given their addresses."""
    (given,), (made,) = session.get_inputs(), session.get_outputs()

    def run(windows: Tensor) -> Tensor:
        import numpy

        windows = windows.float().contiguous()
        logits = torch.empty((len(windows), made.shape[1], *windows.shape[2:]), device=windows.device)
        binding = session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, given.name, windows),
            (binding.bind_output, made.name, logits),
        ):
            place = tensor.device.index or 0
            bind(name, "cuda", place, numpy.float32, tuple(tensor.shape), tensor.data_ptr())
        torch.cuda.synchronize()  # the session has a stream of its own
        session.run_with_iobinding(binding)
        return logits

    return run


def _session(path: Path, providers: list[str]) -> Any:
    onnxruntime = _installed("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # none: what it says is in the error, too
    with tempfile.TemporaryDirectory() as nothing:  # where tensors outside the file would have to be
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", nothing)
        try:
            return onnxruntime.InferenceSession(path.read_bytes(), options, providers=providers)
        except Exception as error:  # it raises types of its own, which are no public names
            said = shortened(str(error).replace(nothing, "the file"), 200)
            raise CheckpointError(
                f"{path}: cannot be read by ONNX Runtime ({said}); use a file of `medfuse export`"
            ) from error


def _installed(package: str) -> Any:
    try:
        return import_offline(package)
    except ImportError as error:
        raise MedfuseError(
            f"runtime onnxruntime: {package} is not installed ({error}); pip install 'medfuse[onnx]'"
        ) from None
